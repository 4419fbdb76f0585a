#include "readers_raw.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qbatch/hash.h>
#include <qlog/io.h>

enum {
    DEPTH = 4,
    READ_BYTES = 1024 * 1024,
    FILES_MAX = 4096,
    PATH_BYTES = 4600
};

struct reading {
    struct qlog_io *io;
    int file;
    uint64_t at;
    uint64_t end;
    uint64_t bytes;
    unsigned under_way;
    bool failed;
    bool hashed;
    uint64_t hash;
    struct slot {
        struct qlog_io_op op;
        struct reading *reading;
        uint8_t *data;
    } slots[DEPTH];
};

static bool read_file(struct reading *reading, const char *path);
static void read_next(struct slot *slot);
static void read_on_done(struct qlog_io_op *op);
static void forget_all(const char *directory);

static int
compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

double
readers_raw(const char *directory, uint64_t bytes, bool hashed)
{
    char folder[PATH_BYTES];
    (void)snprintf(folder, sizeof(folder), "%s/message", directory);
    static char names[FILES_MAX][32];
    size_t count = 0;
    DIR *listing = opendir(folder);
    if (listing == NULL) return 0;
    const struct dirent *entry;
    while ((entry = readdir(listing)) != NULL && count < FILES_MAX)
        if (strncmp(entry->d_name, "segment-", 8) == 0)
            (void)snprintf(names[count++], sizeof(names[0]), "%.31s", entry->d_name);
    (void)closedir(listing);
    qsort(names, count, sizeof(names[0]), compare_names);
    struct reading reading = { .hashed = hashed };
    if (qlog_io_uring_new(&reading.io) != 0 && qlog_io_plain_new(&reading.io) != 0) return 0;
    for (unsigned i = 0; i < DEPTH; i++) {
        reading.slots[i].reading = &reading;
        reading.slots[i].data = aligned_alloc(READ_BYTES, READ_BYTES);
        if (reading.slots[i].data == NULL) return 0;
        memset(reading.slots[i].data, 1, READ_BYTES);
    }
    /* Not the last: it may be a spare, or end with zeros that the disk never wrote. */
    uint64_t start_ns = q_clock_monotonic_ns(q_clock_system());
    for (size_t i = count > 2 ? count - 2 : count; i > 0 && reading.bytes < bytes; i--) {
        char path[PATH_BYTES + 64];
        (void)snprintf(path, sizeof(path), "%s/%s", folder, names[i - 1]);
        if (!read_file(&reading, path)) break;
    }
    uint64_t took_ns = q_clock_monotonic_ns(q_clock_system()) - start_ns;
    for (unsigned i = 0; i < DEPTH; i++)
        free(reading.slots[i].data);
    reading.io->table->destroy(reading.io);
    /* The hashes are looked at, so that they are made. */
    bool useless = reading.failed || (hashed && reading.hash == 1);
    return useless ? 0 : (double)reading.bytes * Q_NS_PER_S / (double)took_ns;
}

static bool
read_file(struct reading *reading, const char *path)
{
    const struct qlog_io_table *table = reading->io->table;
    reading->file = table->open(reading->io, path, QLOG_IO_OPEN_READ | QLOG_IO_OPEN_DIRECT);
    if (reading->file < 0) return false;
    reading->at = 0;
    if (table->size(reading->io, reading->file, &reading->end) < 0) reading->failed = true;
    for (unsigned i = 0; i < DEPTH; i++)
        read_next(&reading->slots[i]);
    while (reading->under_way > 0)
        if (table->enter(reading->io, Q_NS_PER_S) < 0) break;
    table->close(reading->io, reading->file);
    return !reading->failed;
}

static void
read_next(struct slot *slot)
{
    struct reading *reading = slot->reading;
    if (reading->failed || reading->at >= reading->end) return;
    slot->op = (struct qlog_io_op){
        .kind = QLOG_IO_READ,
        .file = reading->file,
        .buffer = -1,
        .length = READ_BYTES,
        .at = reading->at,
        .data = slot->data,
        .done = read_on_done,
    };
    reading->at += READ_BYTES;
    reading->under_way++;
    reading->io->table->submit(reading->io, &slot->op);
}

static void
read_on_done(struct qlog_io_op *op)
{
    struct slot *slot = q_container_of(op, struct slot, op);
    slot->reading->under_way--;
    if (op->result < 0)
        slot->reading->failed = true;
    else
        slot->reading->bytes += (uint64_t)op->result;
    if (slot->reading->hashed && op->result > 0)
        slot->reading->hash ^= qbatch_hash(q_bytes_from(slot->data, (size_t)op->result));
    read_next(slot);
}

void
readers_forget(const char *directory)
{
    static const char *const folders[] = { "", "/message", "/action" };
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        char folder[PATH_BYTES];
        (void)snprintf(folder, sizeof(folder), "%s%s", directory, folders[i]);
        forget_all(folder);
    }
}

static void
forget_all(const char *directory)
{
    DIR *listing = opendir(directory);
    if (listing == NULL) return;
    const struct dirent *entry;
    while ((entry = readdir(listing)) != NULL) {
        int file = openat(dirfd(listing), entry->d_name, O_RDONLY | O_CLOEXEC);
        if (file < 0) continue;
        (void)fdatasync(file);
        (void)posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
        (void)close(file);
    }
    (void)closedir(listing);
}
