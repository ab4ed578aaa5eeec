// What the text of Select Labels says, as far as the picture has to know: names joined by + and -, from left to right.
// The server has the last word; what it knows of names is in labels.json.

/** The vocabulary: labels (title, colour) by id, and of each name the ids that it stands for. */
export async function load() {
  const answer = await fetch(new URL("./labels.json", import.meta.url));
  return answer.json();
}

/** The terms of a text: operator, name, the ids of its labels, where it stands; one that is not known has no ids. */
export function terms(vocabulary, text) {
  const pieces = text.replace(/[−–—]/g, " - ").split(/([+,-])/);
  const words = pieces.filter((_, i) => i % 2 === 0);
  const operators = ["+", ...pieces.filter((_, i) => i % 2)];
  const found = [];
  for (let at = 0; at < words.length; ) {
    // Of words joined by tight hyphens the longest name counts, as in left-eye.
    let end = at + 1;
    for (let longer = at + 2; longer <= Math.min(words.length, at + 4); longer++) {
      const tight = words.slice(at, longer).every((word, i, all) => {
        const left = i === 0 || (word && !/^\s/.test(word));
        const right = i === all.length - 1 || (word && !/\s$/.test(word));
        return left && right && (i === 0 || operators[at + i] === "-");
      });
      if (tight && key(words.slice(at, longer).join("")) in vocabulary.names) end = longer;
    }
    const name = words.slice(at, end).join("-").trim();
    if (name) {
      const ids = vocabulary.names[key(name)];
      found.push({ operator: operators[at] === "-" ? "-" : "+", name, ids: ids ?? [], known: ids !== undefined });
    }
    at = end;
  }
  return found;
}

/** The ids of the labels that a text selects as a whole; regions that are drawn on the face are not among them. */
export function chosen(vocabulary, text) {
  const ids = new Set();
  for (const { operator, ids: some } of terms(vocabulary, text))
    for (const id of some) operator === "-" ? ids.delete(id) : ids.add(id);
  return ids;
}

/** The text with a label added. */
export function add(vocabulary, text, title) {
  const id = vocabulary.names[key(title)][0];
  const rest = terms(vocabulary, text).filter(({ operator, ids }) => !(operator === "-" && only(ids, id)));
  const without = joined(rest);
  return chosen(vocabulary, without).has(id) ? without : joined([...rest, { operator: "+", name: title }]);
}

/** The text with a label taken away, or the term of that number. */
export function remove(vocabulary, text, what) {
  const all = terms(vocabulary, text);
  if (typeof what === "number") return joined(all.filter((_, index) => index !== what));
  const id = vocabulary.names[key(what)][0];
  const rest = all.filter(({ operator, ids }) => !(operator === "+" && only(ids, id)));
  const without = joined(rest);
  return chosen(vocabulary, without).has(id) ? joined([...rest, { operator: "-", name: what }]) : without;
}

function only(ids, id) {
  return ids.length === 1 && ids[0] === id;
}

/** Terms as text. One that takes away cannot come first. */
function joined(all) {
  const first = all.findIndex(({ operator }) => operator === "+");
  if (first < 0) return "";
  return all
    .slice(first)
    .map(({ operator, name }, index) => (index ? ` ${operator} ${name}` : name))
    .join("");
}

function key(name) {
  return name.toLowerCase().replace(/[\s_\-'’]+/g, "");
}
