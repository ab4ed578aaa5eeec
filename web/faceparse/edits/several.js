// What the page can change of a picture, one after the other, in the order of `faceparse edit`: colours, what is hidden,
// the background last.

import { regionIds } from "../labels.js";
import { blurBackground } from "./backdrop.js";
import { facesIn, hiddenArea, pixelate } from "./privacy.js";
import { recolour } from "./recolour.js";
import { refine } from "./refine.js";

/**
 * Changes the pixels (RGBA) of a picture of this size. `wanted`: colours ("#7a1f2b") of `hair` and `lips`, how strongly
 * (`strength`, 0..1), whether faces are to be hidden (`hide`), and the radius of the background's blur in percent of
 * the longer side (`blur`). `seen`: what the parser made of it: `mask(ids, options)`, as a Rendering has it, and its
 * `faces` where they are known.
 */
export function change(pixels, width, height, seen, { hair, lips, strength = 1, hide = false, blur = 0 }) {
  const original = pixels.slice(); // by whose edges masks are refined
  const mask = (region) => {
    const soft = seen.mask(regionIds(region), { soft: true, width, height });
    if (!soft.some((value) => value >= 128)) return soft.fill(0);
    return refine(original, soft, width, height, region !== "lips");
  };
  if (hair) recolour(pixels, mask("hair"), width, height, hair, strength);
  if (lips) recolour(pixels, mask("lips"), width, height, lips, strength);
  const person = blur ? mask("person") : null;
  if (hide) {
    const inside = seen.mask(regionIds("face"), { soft: false, width, height });
    const faces = seen.faces ?? facesIn(inside, width, height);
    pixelate(pixels, hiddenArea(inside, faces, width, height), faces, width, height);
  }
  if (blur) blurBackground(pixels, person, width, height, blur);
  return pixels;
}
