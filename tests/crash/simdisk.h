/*
 * simdisk.h: a disk in memory behind `struct qlog_io`, which can lose power.
 *
 * Reads and maps see the newest completed contents, as through a page cache. Operations complete in
 * a random order given by a seed. All that matters to the medium is recorded as events, so that its
 * state before and after each of them can be built again (simdisk_media_at) and be crashed.
 *
 * Thread: one. Memory: everything. No file of the real machine is touched.
 */
#ifndef TESTS_CRASH_SIMDISK_H
#define TESTS_CRASH_SIMDISK_H

#include <qlog/io.h>

#include "media.h"

struct simdisk;

/* Something between the disk and its user that may let operations fail (faults.h). */
struct simdisk_front {
    struct qlog_io io;
    bool fired;      /* an operation has failed; from here on errors are to be expected */
    bool must_break; /* a write or flush that a log can't do without has failed */
};

/* `media` becomes the disk's. */
struct simdisk *simdisk_new(struct media *media, uint64_t seed);
void simdisk_free(struct simdisk *disk);
/* What programs are to use: the front when there is one. */
struct qlog_io *simdisk_io(struct simdisk *disk);
/* The disk itself, which never fails. */
struct qlog_io *simdisk_raw_io(struct simdisk *disk);
/* NULL: none. */
void simdisk_set_front(struct simdisk *disk, struct simdisk_front *front);
/* An operation has failed on purpose. */
bool simdisk_has_failed(const struct simdisk *disk);
/* Whoever uses the disk must have given up by now. */
bool simdisk_must_break(const struct simdisk *disk);

/* Events so far: the name of this moment. */
uint64_t simdisk_now(const struct simdisk *disk);
/* The medium as it was at a moment; the caller's. Must be freed before the disk. */
struct media *simdisk_media_at(const struct simdisk *disk, uint64_t moment);
/* Move such a medium on by one event. */
void simdisk_media_step(const struct simdisk *disk, struct media *media);

/* The process is dying: nothing it does from now on reaches the disk, everything fails. */
void simdisk_die(struct simdisk *disk);
/* It is dead and has closed everything: what survives is there for the next one. */
void simdisk_crash(struct simdisk *disk, const struct crash_rule *rule);
/* A crash rule that fits this moment, drawn at random. */
struct crash_rule simdisk_random_rule(const struct simdisk *disk, uint64_t seed, bool kill);

#endif /* TESTS_CRASH_SIMDISK_H */
