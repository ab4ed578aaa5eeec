// Writes PNG files: grey and palette pictures, which a canvas cannot write, and alpha that a canvas would round.
// https://www.w3.org/TR/png/

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const UP = 2; // each row is stored as the difference to the one above

/**
 * A PNG file as a Blob. `channels`: 1 (grey), 3 (RGB) or 4 (RGBA); or a `palette`, a list of RGB colours, for pixels
 * that are indices. `rows`: an iterable of Uint8Arrays (whole rows, 8 bits a sample) that together are the picture.
 */
export async function encodePng({ width, height, channels = 1, palette }, rows) {
  const type = palette ? 3 : { 1: 0, 3: 2, 4: 6 }[channels];
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, type);
  const parts = [new Uint8Array(SIGNATURE), chunk("IHDR", new Uint8Array(header.buffer))];
  if (palette) parts.push(chunk("PLTE", new Uint8Array(palette.flat())));
  const compressed = filtered(width * channels, rows).pipeThrough(new CompressionStream("deflate"));
  const data = new Uint8Array(await new Response(compressed).arrayBuffer());
  parts.push(chunk("IDAT", data), chunk("IEND", new Uint8Array()));
  return new Blob(parts, { type: "image/png" });
}

function filtered(stride, rows) {
  const bands = rows[Symbol.iterator]();
  let above = new Uint8Array(stride);
  return new ReadableStream({
    pull(controller) {
      const { value: band, done } = bands.next();
      if (done) return controller.close();
      const count = band.length / stride;
      const out = new Uint8Array(count * (stride + 1));
      for (let y = 0, at = 0; y < count; y++) {
        out[at++] = UP;
        const row = band.subarray(y * stride, (y + 1) * stride);
        for (let x = 0; x < stride; x++) out[at++] = row[x] - above[x];
        above = row;
      }
      above = above.slice();
      controller.enqueue(out);
    },
  });
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) bytes[4 + i] = name.charCodeAt(i);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc(bytes) {
  let value = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) value = CRC_TABLE[(value ^ bytes[i]) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
