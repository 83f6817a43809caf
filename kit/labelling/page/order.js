// An order of answers with ties, as groups: [[2], [0, 3], [1]] puts answer 2 first, then 0 and 3 tied, then 1.
// Every function returns a new order and leaves the old one as it was.

export const inPageOrder = (count) => Array.from({ length: count }, (_, answer) => [answer]);
export const allTied = (count) => [Array.from({ length: count }, (_, answer) => answer)];

// Each answer's rank, in the order of the page: 1 is best, equals share, without gaps.
export function ranksOf(groups) {
  const ranks = [];
  groups.forEach((group, at) => group.forEach((answer) => { ranks[answer] = at + 1; }));
  return ranks;
}

export function fromRanks(ranks) {
  const groups = [];
  ranks.forEach((rank, answer) => { (groups[rank - 1] ??= []).push(answer); });
  return groups.filter(Boolean);
}

export const isOrder = (groups, count) =>
  Array.isArray(groups) && groups.every((group) => Array.isArray(group) && group.length > 0) &&
  groups.flat().sort((a, b) => a - b).join() === Array.from({ length: count }, (_, answer) => answer).join();

const groupOf = (groups, answer) => groups.findIndex((group) => group.includes(answer));
const without = (groups, answer) => groups.map((group) => group.filter((one) => one !== answer));
const filled = (groups) => groups.filter((group) => group.length > 0);

// One step up (by -1) or down (by 1): out of a tie, or past the next answer, past all of a tie at once.
export function moved(groups, answer, by) {
  const at = groupOf(groups, answer);
  if (groups[at].length > 1) {
    const rest = without(groups, answer);
    return [...rest.slice(0, by < 0 ? at : at + 1), [answer], ...rest.slice(by < 0 ? at : at + 1)];
  }
  const to = at + by;
  if (to < 0 || to >= groups.length) return groups;
  const next = [...groups];
  [next[at], next[to]] = [next[to], next[at]];
  return next;
}

// The answer alone at that place, counted from 1; at the last one where there are not so many.
export function placed(groups, answer, place) {
  const rest = filled(without(groups, answer));
  const at = Math.min(place - 1, rest.length);
  return [...rest.slice(0, at), [answer], ...rest.slice(at)];
}

// The answer put between two others, counted without it: into a tie where both neighbours share one.
export function dropped(groups, answer, at) {
  const rest = filled(without(groups, answer));
  const order = rest.flat();
  const [above, below] = [order[at - 1], order[at]];
  const next = below === undefined ? rest.length : groupOf(rest, below);
  if (above !== undefined && below !== undefined && groupOf(rest, above) === next) {
    const inside = rest[next].indexOf(below);
    return rest.map((group, number) => (number === next ? [...group.slice(0, inside), answer, ...group.slice(inside)] : group));
  }
  return [...rest.slice(0, next), [answer], ...rest.slice(next)];
}

// The answer tied with the one above it, or parted from it where it was.
export function tied(groups, answer) {
  const at = groupOf(groups, answer);
  const inside = groups[at].indexOf(answer);
  if (inside > 0) {
    return [...groups.slice(0, at), groups[at].slice(0, inside), groups[at].slice(inside), ...groups.slice(at + 1)];
  }
  if (at === 0) return groups;
  return [...groups.slice(0, at - 1), [...groups[at - 1], ...groups[at]], ...groups.slice(at + 1)];
}
