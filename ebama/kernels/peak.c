/* The pixel of each map at which V map H^T is largest, as smoothing.py defines it, for `real` float or double. Maps are
   [n, h, w], V [h, h] and H [w, w], row by row; V and H are zero farther than `reach` from their diagonal. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__x86_64__) && defined(__GLIBC__) /* the loader can choose the widest vectors that the processor has */
#define WIDEST __attribute__((target_clones("avx2", "default")))
#else
#define WIDEST
#endif
#define INLINE static inline __attribute__((always_inline))

/* Copy the entries of a matrix around its diagonal: tap t of row i to band[i * row + t * tap], zero beyond the borders. */
INLINE void copy_band(const real *matrix, int64_t size, int64_t reach, real *band, int64_t row, int64_t tap) {
    for (int64_t i = 0; i < size; i++)
        for (int64_t t = 0; t <= 2 * reach; t++) {
            const int64_t j = i + t - reach;
            band[i * row + t * tap] = 0 <= j && j < size ? matrix[i * size + j] : 0;
        }
}

INLINE int find_peaks(const real *restrict maps, int64_t n, int64_t h, int64_t w, const real *vertical,
                      const real *horizontal, int64_t reach, int64_t *restrict pixels) {
    const int64_t taps = 2 * reach + 1, wide = w + 2 * reach;
    real *restrict down = calloc(taps * (h + w) + h * wide + w, sizeof(real)); /* one block for four arrays */
    if (!down) return 1;
    real *restrict across = down + taps * h;
    real *restrict columns = across + taps * w; /* maps smoothed vertically, between margins of zeros */
    real *restrict smoothed = columns + h * wide; /* one row of a map smoothed both ways */
    copy_band(vertical, h, reach, down, taps, 1);
    copy_band(horizontal, w, reach, across, 1, w);
    for (int64_t m = 0; m < n; m++, maps += h * w) {
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++) {
                real sum = 0;
                for (int64_t t = 0; t < taps; t++) {
                    const int64_t i = y + t - reach, inside = i < 0 ? 0 : i < h ? i : h - 1; /* its weight is 0 if not i */
                    sum += down[y * taps + t] * maps[inside * w + x];
                }
                columns[y * wide + reach + x] = sum;
            }
        real highest = -INFINITY;
        int64_t pixel = 0;
        int infinite = 0;
        for (int64_t y = 0; y < h; y++) {
            int higher = 0;
            for (int64_t x = 0; x < w; x++) {
                real sum = 0;
                for (int64_t t = 0; t < taps; t++) sum += across[t * w + x] * columns[y * wide + x + t];
                smoothed[x] = sum;
                higher |= sum > highest;
                infinite |= sum - sum != 0; /* of NaN, too */
            }
            for (int64_t x = 0; higher && x < w; x++)
                if (smoothed[x] > highest) highest = smoothed[x], pixel = y * w + x;
        }
        pixels[m] = infinite ? h * w : pixel;
    }
    free(down);
    return 0;
}

/* Write the first pixel [n] of those with the largest value, or h * w for a map that is not finite. Returns 1 if there is
   no memory. */
WIDEST int peak(const real *maps, int64_t n, int64_t h, int64_t w, const real *vertical, const real *horizontal,
                int64_t reach, int64_t *pixels) {
    switch (reach) { /* constants let the compiler unroll the inner loops and vectorise the outer ones */
        case 0: return find_peaks(maps, n, h, w, vertical, horizontal, 0, pixels);
        case 1: return find_peaks(maps, n, h, w, vertical, horizontal, 1, pixels);
        case 2: return find_peaks(maps, n, h, w, vertical, horizontal, 2, pixels);
        case 3: return find_peaks(maps, n, h, w, vertical, horizontal, 3, pixels);
        default: return find_peaks(maps, n, h, w, vertical, horizontal, reach, pixels);
    }
}
