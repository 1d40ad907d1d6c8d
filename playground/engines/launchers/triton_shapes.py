"""The OpenAI shapes of an answer: chat and text completions, whole and in chunks."""

import time
import uuid


class Shape:
    """What both share: ids, choices, usage. `texts` are the choices' texts, which count their tokens."""

    kind = chunk_kind = prefix = ""

    def __init__(self, served, body):
        options = body.get("stream_options") or {}
        self.wants_usage = options.get("include_usage") is True
        self.continuous = options.get("continuous_usage_stats") is True
        self.id, self.created, self.model = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time()), served.name
        self.prompt_tokens, self.texts, self.choices = 0, [], {}

    def head(self, kind):
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def usage(self):
        made = sum(text.tokens for text in self.texts)
        tokens = {"prompt_tokens": self.prompt_tokens, "completion_tokens": made}
        return {"usage": {**tokens, "total_tokens": self.prompt_tokens + made}}

    def add(self, index, text, end):
        said, _ = self.choices.get(index, ("", None))
        self.choices[index] = said + text, end

    def whole(self):
        choices = [self.choice(index, *self.choices[index]) for index in sorted(self.choices)]
        return {**self.head(self.kind), "choices": choices, **self.usage()}

    def opening(self):
        return []

    def chunk(self, index, text, end):
        choice = {"index": index, **self.piece(text), "logprobs": None, "finish_reason": end}
        more = self.usage() if self.continuous else {}
        return {**self.head(self.chunk_kind), "choices": [choice], **more}

    def usage_chunk(self):
        return {**self.head(self.chunk_kind), "choices": [], **self.usage()}


class ChatShape(Shape):
    """/v1/chat/completions."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def choice(self, index, text, end):
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": end}

    def opening(self):
        """The role of each choice, before its text."""
        delta = {"role": "assistant", "content": ""}
        return [
            {
                **self.head(self.chunk_kind),
                "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}],
            }
            for index in range(len(self.texts))
        ]

    def piece(self, text):
        return {"delta": {"content": text} if text else {}}


class CompletionShape(Shape):
    """/v1/completions."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def choice(self, index, text, end):
        return {"index": index, "text": text, "logprobs": None, "finish_reason": end}

    def piece(self, text):
        return {"text": text}
