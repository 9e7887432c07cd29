/* All pairs of near-cubic supercells on CPU: the twin of the torch code in `geometry.py`, where each step is explained. */

#include "portable.h"

#define TIE 1e-3
#define SAME_DISTANCE 1e-5
#define RESOLUTION 0x1p-20

typedef double Matrix[3][3];

INLINE double dot(const double *a, const double *b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

INLINE double determinant(Matrix m)
{
    return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
           m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

INLINE void invert(Matrix m, Matrix out)
{
    double scale = 1.0 / determinant(m);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            int a = (j + 1) % 3, b = (j + 2) % 3, c = (i + 1) % 3, d = (i + 2) % 3;
            out[i][j] = (m[a][c] * m[b][d] - m[a][d] * m[b][c]) * scale;
        }
}

INLINE void multiply(Matrix a, Matrix b, Matrix out)
{
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) out[i][j] = a[i][0] * b[0][j] + a[i][1] * b[1][j] + a[i][2] * b[2][j];
}

static double rounded(double exact) { return copysign(floor(fabs(exact) + 0.5 + TIE), exact); }

static void near_cubic(Matrix lattice, int64_t n_sites, int64_t max_sites, int64_t repeats[3], Matrix matrix)
{
    double bb = dot(lattice[1], lattice[1]), cc = dot(lattice[2], lattice[2]), ab = dot(lattice[0], lattice[1]),
           ac = dot(lattice[0], lattice[2]), bc = dot(lattice[1], lattice[2]), face = bb * cc - bc * bc;
    double axes[3] = { fabs(determinant(lattice)) / sqrt(face), sqrt(face / cc), sqrt(cc) };
    repeats[0] = repeats[1] = repeats[2] = 1;
    for (;;) {
        double length[3], least = INFINITY;
        int shortest = 0;
        for (int i = 0; i < 3; i++) {
            length[i] = (double)repeats[i] * axes[i];
            least = fmin(least, length[i]);
        }
        while (length[shortest] > least * (1 + TIE)) shortest++;
        repeats[shortest]++;
        if (repeats[0] * repeats[1] * repeats[2] * n_sites <= max_sites) continue;
        repeats[shortest]--;
        break;
    }
    memset(matrix, 0, sizeof(Matrix));
    for (int i = 0; i < 3; i++) matrix[i][i] = (double)repeats[i];
    matrix[0][1] = rounded(matrix[0][0] * (ac * bc - ab * cc) / face);
    matrix[0][2] = rounded(matrix[0][0] * (ab * bc - ac * bb) / face);
    matrix[1][2] = rounded(matrix[1][1] * -bc / cc);
}

static void shortest_basis(Matrix lattice, Matrix out)
{
    static const int couples[6][2] = { { 0, 1 }, { 0, 2 }, { 0, 3 }, { 1, 2 }, { 1, 3 }, { 2, 3 } };
    double vectors[4][3], limit = 1e-9 * (dot(lattice[0], lattice[0]) + dot(lattice[1], lattice[1]) + dot(lattice[2], lattice[2]));
    memcpy(vectors, lattice, sizeof(Matrix));
    for (int k = 0; k < 3; k++) vectors[3][k] = -(lattice[0][k] + lattice[1][k] + lattice[2][k]);
    for (;;) {
        int which = 0;
        double sharpest = -INFINITY;
        for (int c = 0; c < 6; c++) {
            double product = dot(vectors[couples[c][0]], vectors[couples[c][1]]);
            if (product > sharpest) sharpest = product, which = c;
        }
        if (!(sharpest > limit)) break;
        int i = couples[which][0], j = couples[which][1];
        for (int k = 0; k < 3; k++) {
            double turned = vectors[i][k];
            for (int v = 0; v < 4; v++) vectors[v][k] += v == i ? -2 * turned : v == j ? 0 : turned;
        }
    }
    double sums[8][3] = { { 0 } }, norms[8];
    int order[7] = { 1, 2, 3, 4, 5, 6, 7 };
    for (int s = 1; s < 8; s++) {
        for (int v = 0; v < 3; v++)
            if (s >> v & 1)
                for (int k = 0; k < 3; k++) sums[s][k] += vectors[v][k];
        norms[s] = sqrt(dot(sums[s], sums[s]));
    }
    for (int a = 1; a < 7; a++)
        for (int b = a; b > 0 && norms[order[b]] < norms[order[b - 1]]; b--) {
            int held = order[b];
            order[b] = order[b - 1], order[b - 1] = held;
        }
    int third = order[2] == (order[0] ^ order[1]) ? order[3] : order[2];
    memcpy(out[0], sums[order[0]], sizeof *sums);
    memcpy(out[1], sums[order[1]], sizeof *sums);
    memcpy(out[2], sums[third], sizeof *sums);
}

/* The 13 neighboring images of a cell that are no opposites of each other, and their squares. */
static void ways_out(Matrix basis, double ways[13][3], double squares[13], double signs[13][3])
{
    int n = 0;
    for (int a = 0; a < 2; a++)
        for (int b = -1; b < 2; b++)
            for (int c = -1; c < 2; c++)
                if (a > 0 || b > 0 || (b == 0 && c > 0)) {
                    for (int k = 0; k < 3; k++) ways[n][k] = a * basis[0][k] + b * basis[1][k] + c * basis[2][k];
                    signs[n][0] = a, signs[n][1] = b, signs[n][2] = c;
                    squares[n] = dot(ways[n], ways[n]);
                    n++;
                }
}

/* Nearest images of `n` steps in coordinates of the basis, in place: fractions in, angstrom out. */
INLINE void nearest_images(double *x, double *y, double *z, double *best, double *taken, int64_t n, Matrix basis)
{
    double ways[13][3], squares[13], signs[13][3];
    ways_out(basis, ways, squares, signs);
    SIMD for (int64_t p = 0; p < n; p++) {
        double a = x[p] - nearbyint(x[p]), b = y[p] - nearbyint(y[p]), c = z[p] - nearbyint(z[p]);
        x[p] = a * basis[0][0] + b * basis[1][0] + c * basis[2][0];
        y[p] = a * basis[0][1] + b * basis[1][1] + c * basis[2][1];
        z[p] = a * basis[0][2] + b * basis[1][2] + c * basis[2][2];
        double gain = 0.0, way = -1.0;
        double u = x[p] * basis[0][0] + y[p] * basis[0][1] + z[p] * basis[0][2];
        double v = x[p] * basis[1][0] + y[p] * basis[1][1] + z[p] * basis[1][2];
        double w = x[p] * basis[2][0] + y[p] * basis[2][1] + z[p] * basis[2][2];
        for (int m = 0; m < 13; m++) {
            double change = squares[m] - 2.0 * fabs(signs[m][0] * u + signs[m][1] * v + signs[m][2] * w);
            way = change < gain ? (double)m : way;
            gain = change < gain ? change : gain;
        }
        best[p] = gain;
        taken[p] = way;
    }
    for (int64_t p = 0; p < n; p++)
        if (taken[p] >= 0.0) {
            const double *way = ways[(int)taken[p]];
            double toward = way[0] * x[p] + way[1] * y[p] + way[2] * z[p] < 0.0 ? -1.0 : 1.0;
            x[p] -= toward * way[0];
            y[p] -= toward * way[1];
            z[p] -= toward * way[2];
        }
}

/* Entries of one center, all its neighbors' images: coordinates, then two columns of scratch and the distances. */
typedef struct {
    double *x, *y, *z, *gain, *way, *key;
} Entries;

INLINE void steps_from(int64_t center, const double *sites, int64_t n, const double *cells, int64_t n_cells, Entries e)
{
    int64_t p = 0;
    for (int64_t j = 0; j < n; j++) {
        double a = sites[3 * j] - sites[3 * center], b = sites[3 * j + 1] - sites[3 * center + 1],
               c = sites[3 * j + 2] - sites[3 * center + 2];
        for (int64_t k = 0; k < n_cells; k++, p++) {
            e.x[p] = a + cells[3 * k];
            e.y[p] = b + cells[3 * k + 1];
            e.z[p] = c + cells[3 * k + 2];
        }
    }
}

/* Rows of the images [begin, end) of one neighbor: sorted by distance, those at the same distance as one row. */
static int64_t merged(const Entries *e, int64_t begin, int64_t end, int32_t *order, float *displacement, float *count)
{
    int64_t rows = 0, n = 0;
    for (int64_t p = begin; p < end; p++, n++) {
        int64_t at = n;
        for (; at > 0 && e->key[order[at - 1]] > e->key[p]; at--) order[at] = order[at - 1];
        order[at] = (int32_t)p;
    }
    for (int64_t first = 0; first < n; rows++) {
        int64_t last = first + 1;
        while (last < n && !(e->key[order[last]] - e->key[order[last - 1]] > SAME_DISTANCE / RESOLUTION)) last++;
        int32_t middle = order[first + (last - first) / 2];
        displacement[3 * rows] = (float)e->x[middle];
        displacement[3 * rows + 1] = (float)e->y[middle];
        displacement[3 * rows + 2] = (float)e->z[middle];
        count[rows] = (float)(last - first);
        first = last;
    }
    return rows;
}

/* Fill center, neighbor, displacement and count for all crystals; returns the number of rows.
 * `ends` says where the sites of each crystal end. `work` has room for 13 doubles an entry of the largest crystal. */
HOT int64_t all_pairs(const double *lattices, const double *positions, const int64_t *ends, int64_t n_crystals,
                      int64_t max_sites, int64_t most_entries, double *work, int64_t *center, int64_t *neighbor,
                      float *displacement, float *count)
{
    Entries e = { work, work + most_entries, work + 2 * most_entries, work + 3 * most_entries, work + 4 * most_entries,
                  work + 5 * most_entries };
    double *sites = work + 6 * most_entries, *cells = work + 9 * most_entries;
    int32_t *order = (int32_t *)(work + 12 * most_entries);
    int64_t rows = 0, start = 0;
    for (int64_t crystal = 0; crystal < n_crystals; start = ends[crystal++]) {
        Matrix lattice, matrix, supercell, basis, inverse, into;
        int64_t repeats[3], n = ends[crystal] - start, n_cells = 0;
        memcpy(lattice, lattices + 9 * crystal, sizeof(Matrix));
        near_cubic(lattice, n, max_sites, repeats, matrix);
        multiply(matrix, lattice, supercell);
        shortest_basis(supercell, basis);
        invert(basis, inverse);
        multiply(lattice, inverse, into);
        for (int64_t i = 0; i < n; i++)
            for (int k = 0; k < 3; k++) {
                const double *f = positions + 3 * (start + i);
                sites[3 * i + k] = f[0] * into[0][k] + f[1] * into[1][k] + f[2] * into[2][k];
            }
        for (int64_t a = 0; a < repeats[0]; a++)
            for (int64_t b = 0; b < repeats[1]; b++)
                for (int64_t c = 0; c < repeats[2]; c++, n_cells++)
                    for (int k = 0; k < 3; k++)
                        cells[3 * n_cells + k] = (double)a * into[0][k] + (double)b * into[1][k] + (double)c * into[2][k];
        for (int64_t i = 0; i < n; i++) {
            steps_from(i, sites, n, cells, n_cells, e);
            nearest_images(e.x, e.y, e.z, e.gain, e.way, n * n_cells, basis);
            SIMD for (int64_t p = 0; p < n * n_cells; p++)
                e.key[p] = floor(sqrt(e.x[p] * e.x[p] + e.y[p] * e.y[p] + e.z[p] * e.z[p]) / RESOLUTION);
            for (int64_t j = 0; j < n; j++) {
                /* The first cell is the one that the sites are in, where a site meets itself. */
                int64_t found = merged(&e, j * n_cells + (i == j), (j + 1) * n_cells, order, displacement + 3 * rows,
                                       count + rows);
                for (int64_t r = rows; r < rows + found; r++) center[r] = start + i, neighbor[r] = start + j;
                rows += found;
            }
        }
    }
    return rows;
}

/* Distinct keys are numbered in the order in which they first occur. `slots` is a power of two, filled with -1; `found`
 * has the keys so far. */
INLINE int64_t number_of(int64_t key, int64_t *found, int64_t *n_found, int64_t *slots, int64_t n_slots)
{
    uint64_t slot = ((uint64_t)key * 0x9E3779B97F4A7C15u >> 20) & (uint64_t)(n_slots - 1);
    while (slots[slot] >= 0 && found[slots[slot]] != key) slot = (slot + 1) & (uint64_t)(n_slots - 1);
    if (slots[slot] < 0) {
        slots[slot] = (*n_found)++;
        found[slots[slot]] = key;
    }
    return slots[slot];
}

EXPORT int64_t distinct(const int64_t *key, int64_t *number, int64_t *found, int64_t n, int64_t *slots, int64_t n_slots)
{
    int64_t n_found = 0;
    for (int64_t i = 0; i < n; i++) number[i] = number_of(key[i], found, &n_found, slots, n_slots);
    return n_found;
}

/* The same for (distance in steps, species of neighbor, species of center) of pairs, packed into a key. */
EXPORT int64_t distinct_triples(const int64_t *species, const int64_t *center, const int64_t *neighbor,
                                const float *displacement, double steps, int64_t n_kinds, int64_t *number,
                                int64_t *found, int64_t n, int64_t *slots, int64_t n_slots)
{
    int64_t n_found = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *d = displacement + 3 * i;
        int64_t far = (int64_t)nearbyint(steps * sqrtf(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]));
        int64_t key = (far * n_kinds + species[neighbor[i]]) * n_kinds + species[center[i]];
        number[i] = number_of(key, found, &n_found, slots, n_slots);
    }
    return n_found;
}

/* For each part one of another crystal, by weight: `chance` in [0, 1) says which. Parts are grouped by crystal.
 * `work` has room for a double a part and two a crystal, `guide` for an index a part and one more. */
EXPORT int64_t draw_from_others(const float *weight, const int64_t *crystal, const double *chance, int64_t n,
                                int64_t n_crystals, double *work, int64_t *guide, int64_t *drawn)
{
    double *ends = work, *begins = work + n, *own = begins + n_crystals, total = 0.0;
    memset(begins, 0, sizeof(double) * 2 * (size_t)n_crystals);
    for (int64_t p = 0; p < n; p++) {
        if (p == 0 || crystal[p] != crystal[p - 1]) begins[crystal[p]] = total;
        own[crystal[p]] += weight[p];
        ends[p] = total += weight[p];
    }
    /* guide[b]: the first part that ends behind the bth of n equal pieces of the line of all weights. */
    for (int64_t b = 0, p = 0; b < n; b++) {
        while (p < n - 1 && ends[p] <= total * (double)b / (double)n) p++;
        guide[b] = p;
    }
    for (int64_t p = 0; p < n; p++) {
        /* A point on that line with the own crystal cut out, so that it can never be drawn. */
        double point = chance[p] * (total - own[crystal[p]]);
        if (point >= begins[crystal[p]]) point += own[crystal[p]];
        /* Weights of 0 or below, which somebody's own encoder may give, leave a share that is none. */
        double share = point / total;
        int64_t piece = share > 0.0 ? (int64_t)(fmin(share, 1.0) * (double)n) : 0, at = guide[piece < n ? piece : n - 1];
        while (at > 0 && ends[at - 1] > point) at--;
        while (at < n - 1 && ends[at] <= point) at++;
        drawn[p] = at;
    }
    return n;
}

/* Python looks for this when it imports the file as a module; it is loaded by ctypes instead. */
#include <Python.h>

static struct PyModuleDef module = { PyModuleDef_HEAD_INIT, "_native", NULL, -1, NULL };

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&module); }
