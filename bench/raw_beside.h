/*
 * raw_beside.h: what the disk itself does to a write that has to be flushed while it is read: a loop
 * that writes a block and waits, alone and beside a loop that reads a store's segments, by turns.
 *
 * It is the ceiling for a store that writes and is read: both loops are in one thread and one ring, as
 * there, and nothing is done with the bytes.
 */
#ifndef BENCH_RAW_BESIDE_H
#define BENCH_RAW_BESIDE_H

#include <stdbool.h>
#include <stdint.h>

#include <qbase/hist.h>

struct raw_beside {
    /* Set by the caller. */
    const char *directory; /* of the store; a file is made beside its logs, and removed */
    uint64_t ns;           /* of a round */
    unsigned depth;        /* reads under way, */
    uint32_t read_bytes;   /* each of so many */
    struct q_hist *alone;
    struct q_hist *beside;

    double read_rate; /* bytes a second, of all rounds */
    uint64_t read_ns; /* private */
    uint64_t moved;
};

/* A round alone, then one beside the reads. False: it could not be done. */
bool raw_beside_round(struct raw_beside *raw);

#endif /* BENCH_RAW_BESIDE_H */
