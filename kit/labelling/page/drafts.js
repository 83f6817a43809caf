// The draft of one judgement: kept at every change, under the deal; both tabs of a deal find the same id in it.

import { forget, keep, kept, keysUnder, newId, printOf } from "./kept.js";
import { allTied, fromRanks, inPageOrder, isOrder, ranksOf } from "./order.js";

const OLD_MS = 60 * 24 * 3600 * 1000;

export class Drafts {
  constructor(place) {
    this.place = `${place}:draft:`;
    for (const key of keysUnder(this.place)) {
      const { saved, touched, comment } = kept(key) ?? {};
      if (!(saved > Date.now() - OLD_MS) && !touched && !comment) forget(key); // a clock may be wrong
    }
  }

  // The draft of an item as it was left, or a new one. `standing`: the judgement that it is to correct.
  of(item, standing = null) {
    const found = kept(this.place + item.deal);
    const supersedes = standing?.id ?? null;
    if (found && found.print === printOf(item) && found.supersedes === supersedes && isOrder(found.groups, item.answers.length)) return found;
    const made = {
      id: newId(),
      print: printOf(item),
      supersedes,
      groups: standing?.ranks ? fromRanks(standing.ranks) : inPageOrder(item.answers.length),
      touched: Boolean(standing?.ranks),
      none: standing?.none_acceptable ?? false,
      tiedByNone: false,
      comment: standing?.comment ?? "",
      seconds: 0,
    };
    if (!standing) this.save(item, made); // its id is there for a second tab before anything is done
    return made;
  }

  save(item, draft) {
    keep(this.place + item.deal, { ...draft, saved: Date.now() });
  }

  forget(item) {
    forget(this.place + item.deal);
  }
}

// "None is acceptable" on answers that nobody has ordered says that they are all the same, and takes that back with it.
export function withNone(draft, none, count) {
  if (none && !draft.touched) return { ...draft, none, groups: allTied(count), touched: true, tiedByNone: true };
  if (!none && draft.tiedByNone) return { ...draft, none, groups: inPageOrder(count), touched: false, tiedByNone: false };
  return { ...draft, none };
}

// What is sent of a draft: ranks, or why the item was skipped.
export const judgement = (item, draft, guidelines, skip = null) => ({
  id: draft.id,
  deal: item.deal,
  ...(skip === null ? { ranks: ranksOf(draft.groups) } : { skip }),
  none_acceptable: skip === null && draft.none,
  comment: draft.comment,
  seconds: draft.seconds,
  guidelines_sha256: guidelines,
  ...(draft.supersedes ? { supersedes: draft.supersedes } : {}),
});

// Whether a draft says something else than the judgement that it is to correct.
export const differs = (draft, standing) =>
  !standing.ranks !== !draft.touched || (draft.touched && ranksOf(draft.groups).join() !== ranksOf(fromRanks(standing.ranks)).join()) ||
  draft.none !== standing.none_acceptable || draft.comment !== standing.comment;
