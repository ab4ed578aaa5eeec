// The 19 labels and their groups, as in faceparse_core/labels.py (a test compares the two). Left and right are the
// subject's: the left eye of someone who looks at you lies on the right of the picture.

const ROWS = [
  ["background", "background", "whatever is not the person", [0, 0, 0]],
  ["skin", "skin", "skin of the face, without nose, ears and neck", [236, 164, 126]],
  ["nose", "nose", "", [255, 214, 64]],
  ["eye_g", "eyeglasses", "frame and lenses, sunglasses too", [20, 214, 214]],
  ["l_eye", "left eye", "the subject's left; on the right of the picture", [0, 112, 255]],
  ["r_eye", "right eye", "the subject's right; on the left of the picture", [70, 224, 70]],
  ["l_brow", "left brow", "the subject's left; on the right of the picture", [150, 196, 255]],
  ["r_brow", "right brow", "the subject's right; on the left of the picture", [0, 116, 52]],
  ["l_ear", "left ear", "the subject's left; on the right of the picture", [140, 80, 255]],
  ["r_ear", "right ear", "the subject's right; on the left of the picture", [188, 232, 120]],
  ["mouth", "inner mouth", "between the lips: teeth and tongue", [255, 244, 230]],
  ["u_lip", "upper lip", "", [255, 64, 128]],
  ["l_lip", "lower lip", "the lower lip, not a left one", [168, 0, 32]],
  ["hair", "hair", "hair of the head, long strands too", [140, 66, 14]],
  ["hat", "hat", "hats, caps, scarves and other headwear", [255, 122, 0]],
  ["ear_r", "earring", "one label for both ears", [255, 170, 240]],
  ["neck_l", "necklace", "", [235, 0, 205]],
  ["neck", "neck", "neck and bare shoulders", [178, 124, 148]],
  ["cloth", "clothing", "", [64, 88, 150]],
];

/** Each label: its id (the value in the label map), published name, readable title, note, and RGB colour. */
export const LABELS = ROWS.map(([name, title, note, colour], id) => ({ id, name, title, note, colour }));

const LIPS = [11, 12];
const FACE = [1, 2, 3, 4, 5, 6, 7, 10, ...LIPS];

/** Named sets of labels, as sorted ids. */
export const GROUPS = {
  face: FACE,
  skin: [1],
  eyes: [4, 5],
  brows: [6, 7],
  ears: [8, 9],
  lips: LIPS,
  mouth_area: [10, ...LIPS],
  hair: [13],
  head: [...FACE, 8, 9, 13, 14].sort((a, b) => a - b),
  accessories: [3, 14, 15, 16],
  person: LABELS.slice(1).map((label) => label.id),
  background: [0],
  all: LABELS.map((label) => label.id),
};

/**
 * The ids that names of labels and groups mean together: `regionIds("hair", "left eye")`.
 * Throws a RangeError for a name that does not exist.
 */
export function regionIds(...names) {
  const ids = names.flatMap((name) => {
    const found =
      GROUPS[name] ?? LABELS.filter((label) => label.title === name || label.name === name).map((l) => l.id);
    if (!found.length) {
      const known = [...Object.keys(GROUPS), ...LABELS.map((label) => label.title)].join(", ");
      throw new RangeError(`there is no label or group "${name}"; there are: ${known}`);
    }
    return found;
  });
  return [...new Set(ids)].sort((a, b) => a - b);
}
