// Faces: their tilt, the windows that frame them, and which pictures are the portrait of one: what faces/face.py does.
//
// A face is `{ x, y, width, height, angle, score, landmarks }`: its box in pixels of the picture, forehead to chin; its
// tilt in degrees, clockwise; how sure it is, 0..1; x and y of the eye at the left of the upright face, the other eye,
// the tip of the nose, the corners of the mouth, left and right.

const FRAME = 2; // the side of a face's window over the face's height
const UPRIGHT = 5; // the tilt up to which it is not turned with the face

/** What is less sure than this is a face only if the parser is sure of its parts. */
export const CONFIRMED = 0.38;

/** The square window of a face, which is about half of it; turned with the face if that is strongly tilted. */
export function framing({ x, y, width, height, angle }) {
  // A face is an ellipse of about 3:4: the sides of a box around it have nearly the same sum, however it is turned.
  const side = (FRAME * (width + height)) / 1.75;
  return {
    x: x + width / 2 - side / 2,
    y: y + height / 2 - side / 2,
    width: side,
    height: side,
    angle: Math.abs(angle) > UPRIGHT ? angle : 0,
  };
}

/** Whether a picture is the portrait of its only face: its window would be most of it, or of its shorter side. */
export function fills(face, picture) {
  const window = framing(face);
  if (window.width >= 0.7 * Math.min(picture.width, picture.height)) return true;
  const width = Math.min(window.x + window.width, picture.width) - Math.max(window.x, 0);
  const height = Math.min(window.y + window.height, picture.height) - Math.max(window.y, 0);
  return width * height >= 0.7 * picture.width * picture.height;
}

/** The middle of a window, [x, y]. */
export function centreOf(window) {
  return [window.x + window.width / 2, window.y + window.height / 2];
}

/** The sine and the cosine of the angle of a window, or of a face. */
export function turnOf({ angle = 0 }) {
  const turn = (angle * Math.PI) / 180;
  return [Math.sin(turn), Math.cos(turn)];
}

/** An angle in degrees, or the difference of two, as one of -180 to 180. */
export function wrapped(angle) {
  return ((((angle + 180) % 360) + 360) % 360) - 180;
}

/** The angle of a face in degrees, clockwise, by its five landmarks. */
export function tilt([[ax, ay], [bx, by], , [cx, cy], [dx, dy]]) {
  const across = (cx + dx - ax - bx) / 2 - (by - ay);
  const down = (cy + dy - ay - by) / 2 + (bx - ax);
  return (Math.atan2(-across, down) * 180) / Math.PI;
}

/** How much of a face's box its landmarks span; nothing where it could not be decided how the face is turned. */
export function span({ width, height, landmarks: [[ax, ay], [bx, by], , [cx, cy], [dx, dy]] }) {
  const right = (cx + dx - ax - bx) / 2;
  const down = (cy + dy - ay - by) / 2;
  return ((bx - ax) * down - (by - ay) * right) / (width * height);
}

/** Intersection over union of the boxes of two faces. */
export function overlap(a, b) {
  const width = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
  const height = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
  const both = Math.max(0, width) * Math.max(0, height);
  return both / (a.width * a.height + b.width * b.height - both);
}
