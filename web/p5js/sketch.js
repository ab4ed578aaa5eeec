// The camera as a mirror, every part of a face in its colour, and the name of what the pointer is on. With the mouse
// button down, the hair alone, in a colour that follows the mouse.
//
// The model runs in a worker, so that draw() never waits for it: parseNext() leaves the latest frame in `parsing`.

let faceparse, parser, parsing, overlay;
let message = "Loading the model …";

async function setup() {
  createCanvas(640, 480);
  describe("The camera's picture, mirrored; skin, hair, eyes and the other parts of a face are coloured.");
  textAlign(CENTER, CENTER);
  textSize(18);
  try {
    faceparse = await import("../faceparse/client.js"); // a sketch is an ordinary script, hence no import at its top
    parser = await faceparse.startParser();
    message = "Waiting for the camera …";
    const camera = createCapture(VIDEO, () => parseNext(camera));
    camera.hide();
  } catch (error) {
    message = error.message;
  }
}

/** Parses the camera's picture, then the next one, and so on. */
async function parseNext(camera) {
  try {
    const latest = await parser.parse(camera.elt, { longest: width });
    parsing?.preview.close();
    parsing = latest;
    paintOverlay();
    message = "";
  } catch (error) {
    message = error.message;
  }
  requestAnimationFrame(() => parseNext(camera));
}

function paintOverlay() {
  const { labels, preview } = parsing;
  const hair = faceparse.regionIds("hair")[0];
  colorMode(HSB);
  const hue = color((360 * constrain(mouseX, 0, width)) / width, 90, 90);
  const dye = [red(hue), green(hue), blue(hue)];
  overlay = createImage(preview.width, preview.height);
  overlay.loadPixels();
  for (let i = 0; i < labels.length; i++) {
    const seen = mouseIsPressed ? labels[i] === hair : labels[i] > 0; // 0 is the background
    if (!seen) continue;
    overlay.pixels.set(mouseIsPressed ? dye : faceparse.LABELS[labels[i]].colour, 4 * i);
    overlay.pixels[4 * i + 3] = 150; // of 255: the picture shines through
  }
  overlay.updatePixels();
}

function draw() {
  background(0);
  fill("white");
  if (!parsing || message) {
    text(message, 20, 20, width - 40, height - 40);
    return;
  }
  const size = [width, (width * parsing.preview.height) / parsing.preview.width];
  push();
  translate(width, 0);
  scale(-1, 1); // a mirror
  drawingContext.drawImage(parsing.preview, 0, 0, ...size);
  image(overlay, 0, 0, ...size);
  pop();

  const x = floor(((width - mouseX) * parsing.preview.width) / size[0]);
  const y = floor((mouseY * parsing.preview.height) / size[1]);
  const inside = x >= 0 && x < parsing.preview.width && y >= 0 && y < parsing.preview.height;
  if (inside) {
    const { title } = faceparse.LABELS[parsing.labels[y * parsing.preview.width + x]];
    stroke("black");
    strokeWeight(4);
    text(title, mouseX, mouseY - 20);
  }
}
