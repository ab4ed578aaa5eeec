// Finding faces, as faces/finder.py does (its numbers are those here): one look at the whole picture, small, and where
// that is not one portrait a second, closer one; what is tilted is looked at again, turned upright.

import { centreOf, framing, overlap, span, tilt, turnOf, wrapped } from "./faces.js";
import { cut, fillFrame } from "./frame.js";

const MEAN = [0.485, 0.456, 0.406];
const STD = [0.229, 0.224, 0.225];
const STRIDE = 8; // pixels to a cell of the network's map
const MULTIPLE = 32; // input sizes are multiples of it
const [GLANCE, SECOND_PIXELS, ENLARGED] = [192, 704 * 528, 1.5]; // the two looks
const [FACE, DOUBTFUL, POSSIBLE, HINT] = [0.5, 0.3, 0.25, 0.15]; // scores
const [FILLING, BESIDE] = [0.5, 0.3];
const LARGE = 110; // of a face in the second look, in pixels: from here on it is seen better in the first
const MOST = 400; // faces of one look
const [NEAR, FACE_NEAR] = [192, 0.3]; // the window around a face that is known
const [TILTED, LEFT, TURNS] = [12, 6, 4]; // degrees, degrees, times
const SHARE = 0.75; // tilts are seen larger than they are: what is left is taken for so much of it
const SPANNED = 0.07;
const ANY = [0, 90, 180, -90];
const PLAIN = 0.6;
const [SAME, WITHIN] = [0.4, 0.75]; // of two boxes of the same face

export class Finder {
  /** `run(input, width, height)` gives the network's map, a tensor [1, 15, height / 8, width / 8]. */
  constructor(run) {
    this.run = run;
  }

  /** The faces of a picture, an ImageBitmap or a canvas, the largest first. */
  async find(picture) {
    const believed = [];
    for (const face of facesOf(await this.#found(picture), picture)) {
      if (face.score >= FACE) {
        believed.push(face);
        continue;
      }
      // What is doubtful is no surer than a look at it alone.
      const seen = await this.#near(picture, face, POSSIBLE);
      if (seen && isAlike(seen, face)) believed.push({ ...face, score: Math.min(seen.score, FACE) });
    }
    const upright = await this.#upright(picture, believed);
    return upright
      .filter((face) => face !== null)
      .sort((a, b) => b.width * b.height - a.width * a.height)
      .map((face, index) => ({ ...face, index }));
  }

  async #found(picture) {
    const longer = Math.max(picture.width, picture.height);
    const coarse = await this.#look(picture, GLANCE / longer, HINT);
    const scale = Math.min(ENLARGED, Math.sqrt(SECOND_PIXELS / (picture.width * picture.height)));
    let found = coarse;
    if (!isFilled(coarse, picture) && scale > (1.25 * GLANCE) / longer) {
      const fine = await this.#look(picture, scale, DOUBTFUL);
      found = together(coarse, fine, scale);
    }
    return found.filter((one) => one.score >= DOUBTFUL);
  }

  /** What is found in a picture, brought to a scale. */
  async #look(picture, scale, least) {
    const inner = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
    const [width, height] = inner.map((side) => MULTIPLE * Math.ceil(side / MULTIPLE));
    const frame = { width, height, inner: { x: 0, y: 0, width: inner[0], height: inner[1] } };
    const map = await this.run(fillFrame(picture, frame, MEAN, STD), width, height);
    const [across, down] = [picture.width / inner[0], picture.height / inner[1]];
    return decoded(map.data, map.dims[2], map.dims[3], least).map(({ box, marks, score }) => ({
      box: [box[0] * across, box[1] * down, box[2] * across, box[3] * down],
      marks: marks.map(([x, y]) => [x * across, y * down]),
      score,
    }));
  }

  /**
   * A face whose place is known, as it is seen in a window of its own, which is turned by its angle; null if its score
   * there is less than this.
   */
  async #near(picture, face, least = FACE_NEAR) {
    const window = { ...framing(face), angle: face.angle };
    const map = await this.run(cut(picture, window, NEAR, MEAN, STD), NEAR, NEAR);
    const found = decoded(map.data, map.dims[2], map.dims[3], least).map((one) => placed(one, window, NEAR));
    const near = facesOf(found, picture).filter((one) => overlap(one, face) > 0.3);
    return near.reduce((best, one) => (value(one) > value(best) ? one : best), null);

    function value(one) {
      return one ? one.score * overlap(one, face) : -1;
    }
  }

  /** The faces with their tilt as it is seen when they are turned upright; null for what cannot be made out. */
  async #upright(picture, faces) {
    const settled = [];
    for (const one of faces) {
      let face = await this.#decided(picture, one);
      for (let turn = 0; face && turn < TURNS && (turn > 0 || Math.abs(face.angle) > TILTED); turn++) {
        const seen = await this.#near(picture, face);
        if (!seen) break;
        const more = wrapped(seen.angle - face.angle);
        const angle = Math.round(10 * wrapped(face.angle + SHARE * more)) / 10;
        face = { ...seen, angle, score: Math.max(seen.score, face.score) };
        if (Math.abs(more) <= LEFT) break;
      }
      settled.push(face);
    }
    return settled;
  }

  /** A face whose landmarks tell no tilt as it looks most like an upright one in four turns; null: it is none. */
  async #decided(picture, face) {
    if (span(face) >= SPANNED) return face;
    let best = null;
    for (const angle of ANY) {
      const seen = await this.#near(picture, { ...face, angle });
      if (!seen || !isAlike(seen, { angle })) continue;
      if (!best || seen.score * span(seen) > best.score * span(best)) best = seen;
    }
    if (best) return { ...best, score: face.score };
    return face.score >= PLAIN ? { ...face, angle: 0 } : null;
  }
}

/** The faces in the network's map, [15, rows, columns], whose score is at least so much, the surest first. */
function decoded(map, rows, columns, least) {
  const plane = rows * columns;
  const bar = Math.log(least / (1 - least));
  const peaks = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const score = map[row * columns + column];
      if (score >= bar && isPeak(map, rows, columns, row, column)) peaks.push({ row, column, score });
    }
  }
  peaks.sort((a, b) => b.score - a.score);
  const found = peaks.slice(0, MOST).map(({ row, column, score }) => {
    const value = (channel) => map[channel * plane + row * columns + column];
    const side = (channel) => Math.exp(Math.min(Math.max(value(channel), -4), 8)) * STRIDE;
    const [x, y] = [(column + 0.5) * STRIDE, (row + 0.5) * STRIDE];
    const [width, height] = [side(3), side(4)];
    const extent = Math.sqrt(width * height);
    const [left, top] = [x + value(1) * extent - width / 2, y + value(2) * extent - height / 2];
    const marks = [5, 7, 9, 11, 13].map((i) => [x + value(i) * extent, y + value(i + 1) * extent]);
    return { box: [left, top, left + width, top + height], marks, score: 1 / (1 + Math.exp(-score)) };
  });
  return distinct(found);
}

function isPeak(map, rows, columns, row, column) {
  const score = map[row * columns + column];
  for (let y = Math.max(0, row - 1); y <= Math.min(rows - 1, row + 1); y++) {
    for (let x = Math.max(0, column - 1); x <= Math.min(columns - 1, column + 1); x++) {
      if (map[y * columns + x] > score) return false;
    }
  }
  return true;
}

/** What was found in a window that was seen `side` pixels wide, in the pixels of its picture. */
function placed({ box, marks, score }, window, side) {
  const scale = window.width / side;
  const [sine, cosine] = turnOf(window).map((value) => value * scale);
  const [x, y] = centreOf(window);
  const forth = ([a, b]) => {
    const [across, down] = [a - side / 2, b - side / 2];
    return [x + cosine * across - sine * down, y + sine * across + cosine * down];
  };
  const centre = forth([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]);
  const [wide, high] = [(box[2] - box[0]) / 2, (box[3] - box[1]) / 2];
  // A box that is turned with its window becomes that of the ellipse in it.
  const reach = [Math.hypot(cosine * wide, sine * high), Math.hypot(sine * wide, cosine * high)];
  return {
    box: [centre[0] - reach[0], centre[1] - reach[1], centre[0] + reach[0], centre[1] + reach[1]],
    marks: marks.map(forth),
    score,
  };
}

/** What two looks found, the second at this scale: a face that both did as the one that saw it better did. */
function together(coarse, fine, scale) {
  const size = ({ box }) => Math.sqrt((box[2] - box[0]) * (box[3] - box[1]));
  const ranked = [coarse, fine].flatMap((look, second) =>
    look.map((one) => ({ one, rank: one.score - (Boolean(second) === size(one) * scale > LARGE ? 0.3 : 0) })),
  );
  return distinct(ranked.sort((a, b) => b.rank - a.rank).map(({ one }) => one));
}

/** What was found without what is the same as something before it. */
function distinct(found) {
  const kept = [];
  for (const one of found) if (!kept.some((other) => isSame(one.box, other.box))) kept.push(one);
  return kept;
}

function isSame(a, b) {
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const both = Math.max(0, width) * Math.max(0, height);
  return both > SAME * (area(a) + area(b) - both) || both > WITHIN * Math.min(area(a), area(b));
}

/** The faces of a picture; of their boxes what lies in it. */
function facesOf(found, { width, height }) {
  const faces = [];
  for (const { box, marks, score } of found) {
    const [left, top, right, bottom] = box.map(Math.round);
    const [x, y] = [Math.max(0, left), Math.max(0, top)];
    const size = { width: Math.min(width, right) - x, height: Math.min(height, bottom) - y };
    if (size.width <= 0 || size.height <= 0) continue;
    faces.push({ x, y, ...size, angle: Math.round(10 * tilt(marks)) / 10, score, landmarks: marks });
  }
  return faces;
}

/** Whether a face that was seen is turned as it was held to be. */
function isAlike(seen, turned) {
  return span(seen) >= SPANNED && Math.abs(wrapped(seen.angle - turned.angle)) < 45;
}

/** Whether one face fills a picture, of others there is hardly a hint, and nobody else is looked for. */
function isFilled(found, { width, height }) {
  if (!found.length || found[0].score < FILLING || found.slice(1).some(({ score }) => score > BESIDE)) return false;
  const [left, top, right, bottom] = found[0].box;
  return Math.sqrt((right - left) * (bottom - top)) > 0.4 * Math.min(width, height);
}
