/* The peaks of smoothed maps and their gradient, as smoothing.py defines them. It compiles this file where it finds a
   compiler, for `real` float or double, and does without elsewhere. Maps are [n, h, w], row by row; a kernel of size
   2r + 1 is given as weights[0..r], from its middle outwards. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) /* where what the processor has is found out on loading */
#define WIDEST __attribute__((target_clones("avx2", "default")))
#else
#define WIDEST
#endif
#define INLINE static inline __attribute__((always_inline))

INLINE int64_t reflect(int64_t i, int64_t size) {
    if (i < 0) i = -i;
    return i < size ? i : 2 * (size - 1) - i;
}

INLINE void find_with(const real *restrict maps, int64_t n, int64_t h, int64_t w, const real *restrict weights, int64_t r,
                      real *restrict peaks, int64_t *restrict pixels) {
    const int64_t wide = w + 2 * r;
    real columns[h * wide], smoothed[h * w]; /* smoothed vertically, with room for the reflection; then both ways */
    real highest[w], odd[w];                 /* of each column: the peak, and 0 if all of it is finite, else NaN */
    for (int64_t m = 0; m < n; m++, maps += h * w) {
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++) {
                real sum = weights[0] * maps[y * w + x];
                for (int64_t i = 1; i <= r; i++)
                    sum += weights[i] * (maps[reflect(y - i, h) * w + x] + maps[reflect(y + i, h) * w + x]);
                columns[y * wide + r + x] = sum;
            }
        for (int64_t y = 0; y < h; y++) { /* afterwards: a vector that was stored in parts is slow to load at once */
            real *row = columns + y * wide + r;
            for (int64_t i = 1; i <= r; i++) row[-i] = row[i], row[w - 1 + i] = row[w - 1 - i];
        }
        for (int64_t x = 0; x < w; x++) highest[x] = -INFINITY, odd[x] = 0;
        for (int64_t y = 0; y < h; y++) {
            const real *row = columns + y * wide + r;
            for (int64_t x = 0; x < w; x++) {
                real sum = weights[0] * row[x];
                for (int64_t i = 1; i <= r; i++) sum += weights[i] * (row[x - i] + row[x + i]);
                smoothed[y * w + x] = sum;
                highest[x] = sum > highest[x] ? sum : highest[x];
                odd[x] += sum - sum;
            }
        }
        real peak = -INFINITY, finite = 0;
        for (int64_t x = 0; x < w; x++) {
            peak = highest[x] > peak ? highest[x] : peak;
            finite += odd[x];
        }
        int64_t y = 0, x = 0;
        for (int found = 0; y < h; y++) {
            for (int64_t i = 0; i < w; i++) found |= smoothed[y * w + i] == peak;
            if (found) break;
        }
        while (y < h && smoothed[y * w + x] != peak) x++;
        peaks[m] = peak + finite;
        pixels[m] = y < h ? y * w + x : 0; /* none is the peak of NaNs */
    }
}

/* The largest smoothed value of each map and the first pixel that has it; NaN for a map that is not finite. */
WIDEST void find(const real *maps, int64_t n, int64_t h, int64_t w, const real *weights, int64_t r, real *peaks,
                 int64_t *pixels) {
    switch (r) { /* the loops of the usual kernels are unrolled, and then vectorised */
        case 0: find_with(maps, n, h, w, weights, 0, peaks, pixels); break;
        case 1: find_with(maps, n, h, w, weights, 1, peaks, pixels); break;
        case 2: find_with(maps, n, h, w, weights, 2, peaks, pixels); break;
        case 3: find_with(maps, n, h, w, weights, 3, peaks, pixels); break;
        default: find_with(maps, n, h, w, weights, r, peaks, pixels);
    }
}

/* What the peaks' slopes, `stride` apart, are for the maps: non-zero on the pixels that the kernel reaches. */
void spread(const int64_t *pixels, const real *slopes, int64_t stride, int64_t n, int64_t h, int64_t w,
            const real *weights, int64_t r, real *gradients) {
    memset(gradients, 0, n * h * w * sizeof(real));
    for (int64_t m = 0; m < n; m++, gradients += h * w) {
        const int64_t y = pixels[m] / w, x = pixels[m] % w;
        for (int64_t i = -r; i <= r; i++) {
            real *row = gradients + reflect(y + i, h) * w;
            const real slope = slopes[m * stride] * weights[i < 0 ? -i : i];
            for (int64_t j = -r; j <= r; j++) row[reflect(x + j, w)] += slope * weights[j < 0 ? -j : j];
        }
    }
}
