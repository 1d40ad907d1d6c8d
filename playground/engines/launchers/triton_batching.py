"""What Triton's Python backend calls: token ids in, token ids out as they are made. Run by the engine environment's own Python.

The work is done by transformers' continuous batching; here its results are brought into the order Triton wants them in.
Each Triton request holds one JSON text in the tensor `request`, and is answered by JSON texts in the tensor `answer`:
{"ids": [1, 2], "end": null}, and at last {"ids": [], "end": "stop" | "length" | "aborted" | "failed"}.
"""

import asyncio
import collections
import json
import threading

import numpy as np


class Batching:
    """One instance of the model: a batch manager of transformers with a KV cache of its own. Weights may be shared."""

    def __init__(self, manager):
        self.manager = manager

    async def answer(self, requests):
        """The decoupled model: a list of answers, one a request, as often as any of them has news."""
        news = asyncio.Queue()
        answers = [Answer(self.manager, place, asked(request), news) for place, request in enumerate(requests)]
        try:
            for one in answers:
                one.begin()
            while any(one.end is None for one in answers):
                lines = [b""] * len(answers)
                for place in await together(news):
                    lines[place] = answers[place].line()
                yield [{"answer": np.array([[line]])} for line in lines]
        finally:
            for one in answers:
                one.stop()

    async def whole(self, requests):
        """The model that answers once: what Triton's response cache keeps."""
        answers = [None] * len(requests)
        last = [{"ids": [], "end": None} for _ in requests]
        async for lines in self.answer(requests):
            for place, line in enumerate(lines):
                if text := line["answer"].item():
                    part = json.loads(text)
                    last[place] = {"ids": last[place]["ids"] + part["ids"], "end": part["end"]}
        for place, answer in enumerate(last):
            answers[place] = {"answer": np.array([[json.dumps(answer).encode()]])}
        return answers

    @property
    def processor(self):
        return self.manager.batch_processor

    def running(self):
        """Requests it computes now."""
        return len(self.processor.scheduler.active_requests) if self.processor else 0

    def waiting(self):
        """Requests it holds that have no room yet."""
        if not self.processor:
            return 0
        return len(self.processor.scheduler.waiting_requests) + self.manager.input_queue.qsize()

    def used(self):
        """The share of its KV cache in use."""
        return 1 - self.processor.cache.compute_free_capacity() if self.processor else 0

    def works(self):
        return self.manager.is_running()


class Answer:
    """One request on its way through a manager. Lives on the loop of one of pytriton's threads."""

    def __init__(self, manager, place, given, news):
        self.manager, self.place, self.given, self.news = manager, place, given, news
        self.id, self.made, self.told, self.end = given["id"], [], 0, None
        self.state = None

    def begin(self):
        given = self.given
        self.loop = asyncio.get_running_loop()
        if not OPEN.enter(self):
            self.finish("aborted")
            return
        self.manager.register_result_handler(self.id, self.take)
        taken = self.manager.add_request(
            given["ids"],
            request_id=self.id,
            max_new_tokens=given["max_tokens"],
            streaming=True,
            eos_token_id=given["eos"] or -1,
            temperature=float(given["temperature"]),
            top_p=float(given["top_p"]),
            top_k=int(given["top_k"]),
        )
        if taken is None:
            self.finish("failed")

    def take(self, output):
        """News from the manager's thread, brought here by it."""
        self.made = output.generated_tokens
        if output.error:
            print(f"triton: a request failed: {output.error[:300]}", flush=True)
            self.finish("failed")
        elif output.is_finished():
            self.finish("stop" if self.made and self.made[-1] in self.given["eos"] else "length")
        else:
            self.news.put_nowait(self.place)

    def finish(self, state):
        if self.state is None:
            self.state = state
            self.news.put_nowait(self.place)

    def line(self):
        """What is new since the last line."""
        fresh, self.told = self.made[self.told :], len(self.made)
        self.end = self.state
        return json.dumps({"ids": fresh, "end": self.end}).encode()

    def stop(self):
        """Also for one nobody waits for: what the manager still computes of it ends."""
        OPEN.leave(self)
        if self.state in (None, "aborted"):
            self.manager.cancel_request(self.id)


class Open:
    """The requests on their way, so that one can be aborted from the thread that serves HTTP."""

    def __init__(self):
        self.lock = threading.Lock()
        self.answers = {}
        self.unwanted = collections.deque(maxlen=4096)

    def enter(self, answer):
        """False where it was aborted before it came here: it waited in one of Triton's queues."""
        with self.lock:
            if answer.id in self.unwanted:
                return False
            self.answers[answer.id] = answer
            return True

    def leave(self, answer):
        with self.lock:
            self.answers.pop(answer.id, None)

    def abort(self, name):
        with self.lock:
            answer = self.answers.get(name)
            if answer is None:
                self.unwanted.append(name)
                return
        answer.manager.cancel_request(name)
        answer.loop.call_soon_threadsafe(answer.finish, "aborted")


OPEN = Open()


def asked(request):
    """What a Triton request asks; the id by which it can be aborted is a parameter of it."""
    return {**json.loads(request.data["request"].item()), "id": request.parameters["answer_id"]}


async def together(news):
    """Places with news, at least one: what is there by now goes out at once."""
    places = {await news.get()}
    while not news.empty():
        places.add(news.get_nowait())
    return places
