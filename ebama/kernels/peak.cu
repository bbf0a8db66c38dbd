/* What peak.c does, on a GPU: a block of THREADS threads (a power of 2) for each map, each thread on every THREADS-th
   pixel. NVRTC compiles it without any header. */

/* Write the first pixel [n] of those with the largest value, or h * w for a map that is not finite. */
extern "C" __global__ void peak(const real *maps, int h, int w, const real *vertical, const real *horizontal, int reach,
                                long long *pixels) {
    __shared__ real values[THREADS];
    __shared__ int places[THREADS];
    const real infinity = 1 / (real)0;
    const int thread = threadIdx.x, size = h * w;
    const real *map = maps + (long long)blockIdx.x * size;
    real highest = -infinity;
    int place = size;
    for (int pixel = thread; pixel < size; pixel += THREADS) {
        const int y = pixel / w, x = pixel % w;
        const int top = max(y - reach, 0), bottom = min(y + reach, h - 1);
        const int left = max(x - reach, 0), right = min(x + reach, w - 1);
        real smoothed = 0;
        for (int i = top; i <= bottom; i++) {
            real row = 0;
            for (int j = left; j <= right; j++) row += horizontal[x * w + j] * map[i * w + j];
            smoothed += vertical[y * h + i] * row;
        }
        if (smoothed - smoothed != 0) { /* NaN or infinite: nothing is higher than this */
            highest = infinity;
            place = size;
        } else if (smoothed > highest) {
            highest = smoothed;
            place = pixel;
        }
    }
    values[thread] = highest;
    places[thread] = place;
    for (int half = THREADS / 2; half > 0; half /= 2) { /* the better of two threads, until one is left */
        __syncthreads();
        const int other = thread + half;
        if (thread < half && (values[other] > values[thread] ||
                              (values[other] == values[thread] && places[other] < places[thread]))) {
            values[thread] = values[other];
            places[thread] = places[other];
        }
    }
    if (thread == 0) pixels[blockIdx.x] = places[0];
}
