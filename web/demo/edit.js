// The tools of the view "Edit": hair and lips in another colour, the background out of focus, faces hidden.

const SWATCHES = {
  hair: {
    black: "#17130f",
    brown: "#4a2c1a",
    copper: "#b5562b",
    blond: "#d9b26a",
    platinum: "#e8dcc4",
    red: "#7a1f2b",
    blue: "#2f5fb3",
  },
  lips: { rose: "#c2596a", red: "#b3121d", berry: "#6e1436", coral: "#e0644c", nude: "#b07a66" },
};
const FIRST = { hair: "#b5562b", lips: "" };

/**
 * Builds the tools into `place`; `changed()` is called after every change. Returns a function that says what is wanted,
 * as `parser.edit` takes it.
 */
export function editTools(place, changed) {
  for (const part of Object.keys(SWATCHES)) place.append(colours(part));
  place.insertAdjacentHTML(
    "beforeend",
    `<label class="row">Strength of colours <input id="colour-strength" type="range" min="0" max="100" value="100"></label>
    <label class="row">Blur of the background <input id="blur" type="range" min="0" max="5" step="0.5" value="0"></label>
    <label class="row"><input id="hide" type="checkbox"> Hide faces</label>`,
  );
  place.addEventListener("input", (event) => {
    // Whoever mixes a colour of their own wants to see it.
    const own = event.target.closest(".own");
    if (own) own.querySelector("[type=radio]").checked = true;
    changed();
  });
  const value = (id) => Number(place.querySelector(`#${id}`).value);
  return () => ({
    ...Object.fromEntries(Object.keys(SWATCHES).map((part) => [part, colourOf(place, part)])),
    strength: value("colour-strength") / 100,
    blur: value("blur"),
    hide: place.querySelector("#hide").checked,
  });
}

/** Radio buttons: as it is, some colours, and one's own. */
function colours(part) {
  const group = document.createElement("fieldset");
  group.className = "swatches";
  group.innerHTML = `<legend>${part[0].toUpperCase()}${part.slice(1)}</legend>`;
  const add = (value, name, look) => {
    const label = document.createElement("label");
    label.title = name;
    label.innerHTML = `<input type="radio" name="${part}"><i></i>`;
    const input = label.querySelector("input");
    Object.assign(input, { value, checked: value === FIRST[part] });
    input.setAttribute("aria-label", name);
    Object.assign(label.querySelector("i").style, look);
    group.append(label);
    return label;
  };
  add("", "as it is", {}).className = "none";
  for (const [name, colour] of Object.entries(SWATCHES[part])) add(colour, name, { background: colour });
  const own = add("own", "a colour of your own", {});
  own.className = "own";
  own.insertAdjacentHTML("beforeend", `<input type="color" value="#7fb2a0" aria-label="the ${part}’s own colour">`);
  return group;
}

function colourOf(place, part) {
  const { value, parentElement } = place.querySelector(`[name=${part}]:checked`);
  return value === "own" ? parentElement.querySelector("[type=color]").value : value;
}
