// Colours as the eye sees them: OKLab (Ottosson 2020), as edits/colours.py has it.

const TO_CONES = [0.4122214708, 0.5363325363, 0.0514459929, 0.2119034982, 0.6806995451, 0.1073969566, 0.0883024619,
  0.2817188376, 0.6299787005]; // prettier-ignore
const TO_LAB = [0.2104542553, 0.7936177850, -0.0040720468, 1.9779984951, -2.4285922050, 0.4505937099, 0.0259040371,
  0.7827717662, -0.8086757660]; // prettier-ignore
const FROM_CONES = inverse(TO_CONES);
const FROM_LAB = inverse(TO_LAB);

/** Red, green and blue in 0..1 of "#7a1f2b". */
export function rgb(colour) {
  if (!/^#[0-9a-f]{6}$/i.test(colour)) throw new RangeError(`"${colour}" is no colour: write it as #7a1f2b`);
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16) / 255);
}

/** Light, of which there is as much as photons, of an sRGB value in 0..1; sRGB is not. */
export function linear(value) {
  return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
}

const LINEAR = Float64Array.from({ length: 256 }, (_, value) => linear(value / 255));
const [STEPS, FINE] = [2048, Float64Array.from({ length: 2050 }, (_, step) => linear(step / 2048))];

/** OKLab of a colour, red, green and blue in 0..1. */
export function toOklab(colour) {
  return times(TO_LAB, times(TO_CONES, colour.map(linear)).map(Math.cbrt));
}

/** OKLab's lightness of red, green and blue in 0..1. */
export function lightness(red, green, blue) {
  return lightnessOf(looked(red), looked(green), looked(blue));
}

/** `linear` from a table. */
function looked(value) {
  const place = value * STEPS;
  const step = Math.floor(place);
  return FINE[step] + (FINE[step + 1] - FINE[step]) * (place - step);
}

/** The same of whole numbers in 0..255. */
export function lightnessOfBytes(red, green, blue) {
  return lightnessOf(LINEAR[red], LINEAR[green], LINEAR[blue]);
}

function lightnessOf(red, green, blue) {
  return (
    TO_LAB[0] * Math.cbrt(TO_CONES[0] * red + TO_CONES[1] * green + TO_CONES[2] * blue) +
    TO_LAB[1] * Math.cbrt(TO_CONES[3] * red + TO_CONES[4] * green + TO_CONES[5] * blue) +
    TO_LAB[2] * Math.cbrt(TO_CONES[6] * red + TO_CONES[7] * green + TO_CONES[8] * blue)
  );
}

/** sRGB in 0..1 of OKLab; what no screen shows is cut off. */
export function toSrgb(lab) {
  return lightOf(lab).map((value) => {
    const light = Math.min(Math.max(value, 0), 1);
    return light <= 0.0031308 ? light * 12.92 : 1.055 * light ** (1 / 2.4) - 0.055;
  });
}

/** The greatest chroma that sRGB has at this lightness in 0..1 and hue in radians. */
export function mostChroma(lightness, hue) {
  let [least, most] = [0, 0.4];
  for (let step = 0; step < 14; step++) {
    const middle = (least + most) / 2;
    const light = lightOf([lightness, Math.cos(hue) * middle, Math.sin(hue) * middle]);
    if (light.every((value) => value >= -1e-4 && value <= 1.0001)) least = middle;
    else most = middle;
  }
  return least;
}

function lightOf(lab) {
  return times(FROM_CONES, times(FROM_LAB, lab).map((value) => value ** 3));
}

function times(m, [a, b, c]) {
  return [m[0] * a + m[1] * b + m[2] * c, m[3] * a + m[4] * b + m[5] * c, m[6] * a + m[7] * b + m[8] * c];
}

function inverse([a, b, c, d, e, f, g, h, i]) {
  const parts = [e * i - f * h, c * h - b * i, b * f - c * e, f * g - d * i, a * i - c * g, c * d - a * f, d * h - e * g,
    b * g - a * h, a * e - b * d]; // prettier-ignore
  const scale = 1 / (a * parts[0] + b * parts[3] + c * parts[6]);
  return parts.map((part) => part * scale);
}
