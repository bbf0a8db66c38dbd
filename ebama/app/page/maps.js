// A word's map at one model call, or its mean over all of them (call null), painted into a canvas.

// maps: Float32Array [words, calls, height, width]; -> Float32Array [height, width]
export function mapOf(maps, { calls, height, width }, word, call) {
  const size = height * width;
  const start = word * calls * size;
  if (call !== null) return maps.subarray(start + call * size, start + (call + 1) * size);
  const mean = new Float32Array(size);
  for (let i = 0; i < calls * size; i++) mean[i % size] += maps[start + i] / calls;
  return mean;
}

export const largest = (map) => map.reduce((most, value) => Math.max(most, value), 0);

// A function that paints values from 0 to high into a canvas, which becomes as many pixels large.
export function painter(hexColours) {
  const colours = hexColours.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return (canvas, map, width, height, high) => {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    map.forEach((value, at) => {
      const index = Math.min(255, Math.max(0, Math.round((255 * value) / (high || 1))));
      image.data.set([...colours[index], 255], 4 * at);
    });
    context.putImageData(image, 0, 0);
  };
}
