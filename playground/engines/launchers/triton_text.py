"""Text of token ids that come one after another: whole characters only, and nothing of or after a stop text."""

# Tokens decoded before the new ones: what a token reads as depends on what stands before it.
BEFORE = 8
BROKEN = "\ufffd"


class Text:
    """The text of one answer as it grows."""

    def __init__(self, tokenizer, stops):
        self.tokenizer, self.stops = tokenizer, stops
        self.ids, self.read, self.held = [], 0, ""
        self.stopped = False

    @property
    def tokens(self):
        return len(self.ids)

    def add(self, ids):
        """What may be told now. What could be the beginning of a stop text is held back."""
        if self.stopped:
            return ""
        self.ids += ids
        return self.release(self.held + self.fresh())

    def fresh(self):
        """The text of the ids not yet read; empty while they end within a character."""
        start = max(0, self.read - BEFORE)
        before, now = self.decode(self.ids[start : self.read]), self.decode(self.ids[start:])
        if now.endswith(BROKEN) or len(now) <= len(before):
            return ""
        self.read = len(self.ids)
        return now[len(before) :]

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def release(self, text):
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self.held = True, ""
            return text[: min(found)]
        kept = max((beginning(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self):
        """What was held back, at the end."""
        if self.stopped:
            return ""
        start = max(0, self.read - BEFORE)
        before, now = self.decode(self.ids[start : self.read]), self.decode(self.ids[start:])
        said, self.held, self.read = self.held + now[len(before) :], "", len(self.ids)
        return said


def beginning(text, stop):
    """How many characters at the end of `text` begin `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-size:])), 0)
