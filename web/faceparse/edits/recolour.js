// Another colour for hair or lips, with the light that falls on them and their texture, as edits/recolour.py does it.

import { lightness, lightnessOfBytes, mostChroma, rgb, toOklab, toSrgb } from "./colours.js";
import { boxOf } from "./grids.js";
import { Rim } from "./rim.js";

const LEVELS = 512; // of lightness, at which the new chroma is worked out
const SHADES = 4096; // of lightness, at which the new colour is
const [DARKEST, LIGHTEST] = [0.16, 0.9];
const [FLATTEST, DARKER, LIGHTER] = [0.55, { power: 0.75, most: 2.6 }, { power: 0.5, most: 1.9 }];
const FADING = 0.7;
const NOISE = 0.13;
const SAMPLE = 1 << 15;
const AROUND = 32;

/**
 * Changes the pixels (RGBA) of a picture where its mask (0 to 255) is not 0, to a colour ("#7a1f2b"): the median
 * lightness goes to that of the colour, and what is lighter and darker with it. `strength` 0..1 mixes.
 */
export function recolour(pixels, mask, width, height, colour, strength = 1) {
  const box = boxOf(mask, width, height, AROUND);
  if (!box || !strength) return;
  const part = { pixels: new Uint8ClampedArray(4 * box.width * box.height), mask: new Uint8Array(box.width * box.height) };
  for (let y = 0; y < box.height; y++) {
    const from = (box.top + y) * width + box.left;
    part.pixels.set(pixels.subarray(4 * from, 4 * (from + box.width)), 4 * y * box.width);
    part.mask.set(mask.subarray(from, from + box.width), y * box.width);
  }
  const dyed = dye(toOklab(rgb(colour)), spreadOf(part, box));
  const rim = new Rim(part.pixels, part.mask, box.width, box.height);
  const [found, pixel] = [new Float32Array(4), new Float32Array(3)];
  for (let y = 0, at = 0; y < box.height; y++) {
    const to = 4 * ((box.top + y) * width + box.left);
    for (let x = 0; x < box.width; x++, at++) {
      if (!part.mask[at]) continue;
      const [red, green, blue] = [part.pixels[4 * at], part.pixels[4 * at + 1], part.pixels[4 * at + 2]];
      const alpha = part.mask[at] / 255;
      if (!rim.mixed(alpha, x, y)) {
        const shade = 3 * shadeAt(lightnessOfBytes(red, green, blue));
        pixels[to + 4 * x] = mix(red, dyed[shade], strength);
        pixels[to + 4 * x + 1] = mix(green, dyed[shade + 1], strength);
        pixels[to + 4 * x + 2] = mix(blue, dyed[shade + 2], strength);
        continue;
      }
      // In the rim the inside alone is changed, and what shines through from behind is not.
      [pixel[0], pixel[1], pixel[2]] = [red / 255, green / 255, blue / 255];
      rim.part(pixel, alpha, x, y, found);
      const shade = 3 * shadeAt(lightness(found[0], found[1], found[2]));
      for (let channel = 0; channel < 3; channel++) {
        const change = (dyed[shade + channel] - 255 * found[channel]) * found[3] * strength;
        pixels[to + 4 * x + channel] = 255 * pixel[channel] + change;
      }
    }
  }
}

function mix(before, after, strength) {
  return before + (after - before) * strength;
}

function shadeAt(light) {
  return Math.min(Math.max(Math.round(light * (SHADES - 1)), 0), SHADES - 1);
}

/** Lightness; near black, where it is noise and blocks of JPEG, flattened. */
function flattened(light) {
  return Math.sqrt(light * light + NOISE * NOISE);
}

/** The median lightness of what is in the mask, and that of its darker and lighter end. */
function spreadOf({ pixels, mask }, { width, height }) {
  const step = Math.max(1, Math.floor(Math.sqrt(Math.floor(mask.length / SAMPLE))));
  const collect = (step, least) => {
    const shades = [];
    for (let y = 0; y < height; y += step) {
      for (let x = 0, at = y * width; x < width; x += step, at += step) {
        if (mask[at] < least) continue;
        shades.push(flattened(lightnessOfBytes(pixels[4 * at], pixels[4 * at + 1], pixels[4 * at + 2])));
      }
    }
    return shades;
  };
  let most = 0;
  for (let y = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step) most = Math.max(most, mask[y * width + x]);
  }
  const shades = Float32Array.from(most ? collect(step, Math.min(0.9 * 255, most)) : collect(1, 1)).sort();
  const [dark, middle, bright] = [0.05, 0.5, 0.95].map((share) => {
    const place = share * (shades.length - 1);
    const [first, second] = [shades[Math.floor(place)], shades[Math.ceil(place)]];
    return first + (second - first) * (place % 1);
  });
  return { dark, middle, bright };
}

const reach = { hue: null, chromas: null }; // the greatest chroma of the last hue: every frame asks for the same

/** For each of SHADES of lightness the new colour, 0 to 255. */
function dye(colour, { middle, bright }) {
  let wanted = Math.min(Math.max(colour[0], DARKEST), LIGHTEST);
  const ratio = wanted / Math.max(middle, 0.05);
  const [darker, lighter] = [DARKER, LIGHTER].map(({ power, most }) => {
    return Math.min(Math.max(ratio ** power, FLATTEST), most);
  });
  // Light colours leave room for what is lighter than the middle.
  wanted = Math.min(wanted, Math.max(0.5, 0.99 - 0.5 * lighter * (bright - middle)));
  const hue = Math.atan2(colour[2], colour[1]);
  const [chroma, own] = [Math.hypot(colour[1], colour[2]), Math.min(Math.max(colour[0], 1e-3), 0.999)];
  if (reach.hue !== hue) {
    Object.assign(reach, { hue, chromas: Float32Array.from({ length: LEVELS }, (_, i) => mostChroma(i / (LEVELS - 1), hue)) });
  }
  const chromas = reach.chromas.map((most, i) => {
    const level = i / (LEVELS - 1);
    const fading = Math.min(Math.max(Math.min(level / own, (1 - level) / (1 - own)), 0), 1) ** FADING;
    return Math.min(chroma * fading, most);
  });
  const table = new Float32Array(3 * SHADES);
  for (let i = 0; i < SHADES; i++) {
    let away = flattened(i / (SHADES - 1)) - middle;
    away *= away > 0 ? lighter : darker;
    // Neither above white nor below black: what comes near is bent.
    const room = Math.max(away > 0 ? 0.99 - wanted : wanted - 0.01, 1e-3);
    const shade = away / Math.sqrt(1 + (away / room) ** 2) + wanted;
    const strong = chromas[Math.min(Math.max(Math.round(shade * (LEVELS - 1)), 0), LEVELS - 1)];
    const colour = toSrgb([shade, Math.cos(hue) * strong, Math.sin(hue) * strong]);
    for (let channel = 0; channel < 3; channel++) table[3 * i + channel] = 255 * colour[channel];
  }
  return table;
}
