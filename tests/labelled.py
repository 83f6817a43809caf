"""Labelling projects with judgements in them, made without a server, for the tests."""

from kit.labels.desk import Desk
from kit.labels.project import Answer, Item, create_project

GUIDELINES = "a" * 64


def item(name="p1", texts=("good", "fair", "bad"), prompt=None, **more):
    """An item whose answers are called a1, a2, ... in the order of the texts."""
    asked = prompt or [{"role": "user", "content": f"Question {name}?"}]
    return Item(name, asked, tuple(Answer(f"a{n}", text) for n, text in enumerate(texts, 1)), **more)


def project(path, items=None, per_item=3, **more):
    """A project of three items, each for three people, or of the given ones."""
    return create_project(path, items or [item(f"p{n}") for n in range(1, 4)], per_item=per_item, **more)


class Team:
    """People who judge a project through its desk; items are dealt as the test says."""

    def __init__(self, made, now=lambda: 1_772_445_600.0):
        self.made, self.count = made, 0
        self.desk = Desk(made, now)
        self.now = now

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.desk.close()

    def judge(self, who, name, ranks=None, group=None, **more):
        """A judgement with ranks in the order of the item; the page shows the answers from the last to the first."""
        if group is not None or who not in self.desk.store.annotators():
            self.desk.welcome({who: group})
        known = {(deal.annotator, deal.item): deal for deal in self.desk.store.deals()}
        deal = known.get((who, name))
        if deal is None:
            shown = tuple(answer.name for answer in reversed(self.made.items[name].answers))
            (deal,) = self.desk.store.add_deals([(who, name, shown, self.now())])
            self.desk._dealer._keep(deal)
        self.count += 1
        sent = {"id": f"client-{self.count:012}", "deal": deal.id, "guidelines_sha256": GUIDELINES, **more}
        if ranks is not None:
            sent["ranks"] = list(reversed(ranks))
        assert not self.desk.judge(who, sent)["again"]
        return sent["id"]
