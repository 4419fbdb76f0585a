/*
 * full_disk_place.h: a file system of a known small size.
 *
 * A loop device with ext4 where that can be had; it is mounted in a mount namespace of this process,
 * and its image has no name, so that nothing is left however the process ends but an empty directory.
 * Elsewhere a quota: an io that refuses to allocate, and tells free space, as if what lies in the
 * directory were on a file system of that size.
 *
 * Thread: one.
 */
#ifndef TESTS_CRASH_FULL_DISK_PLACE_H
#define TESTS_CRASH_FULL_DISK_PLACE_H

#include <qlog/io.h>

struct place {
    char directory[256]; /* of the file system */
    uint64_t bytes;
    bool loop;
    const char *why_not; /* no loop device */
};

/* A new directory below `parent`. `loop`: try to. False: it could not be made. */
bool place_make(struct place *place, const char *parent, uint64_t bytes, bool loop);
/* The io to work there with; NULL: the store's own. place_io_free() when the store is closed. */
struct qlog_io *place_io(const struct place *place);
void place_io_free(struct qlog_io *io);
void place_remove(const struct place *place);

#endif /* TESTS_CRASH_FULL_DISK_PLACE_H */
