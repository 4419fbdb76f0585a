/*
 * ramdisk.h: files in memory behind `struct qlog_io`, which can be copied, kept and damaged.
 *
 * It does what a kernel does, at once and in order: a read at the end is short, a direct read that
 * is not aligned is refused, a map sees what is written later, and a byte of a map that lies behind
 * the end of its file can't be touched. It can lose what was not flushed, all of it; which parts of it
 * may survive a power loss is the simulated disk's. A test may meddle with each operation.
 *
 * Thread: one. Memory: the contents are the disk's until ramdisk_free().
 */
#ifndef TESTS_PROOF_RAMDISK_H
#define TESTS_PROOF_RAMDISK_H

#include <qlog/io.h>

enum {
    RAMDISK_FILES_MAX = 96,
    RAMDISK_FILE_BYTES_MAX = 1024 * 1024,
    RAMDISK_PATH_MAX = 64
};

struct ramdisk;

/* Contents of a disk. Zero bytes: an empty image. */
struct image_file {
    char path[RAMDISK_PATH_MAX];
    bool directory;
    uint8_t *data; /* `size` bytes of the image's own */
    uint64_t size;
};

struct image {
    struct image_file files[RAMDISK_FILES_MAX];
    unsigned count;
};

/* What becomes of an operation. */
enum ramdisk_fate {
    RAMDISK_DO,
    RAMDISK_HOLD, /* it stays under way; asked again at the next enter() */
    RAMDISK_HALF, /* a read or write does a part */
    RAMDISK_FAIL, /* with EIO */
};
typedef enum ramdisk_fate ramdisk_fate_fn(void *context, const struct qlog_io_op *op);

struct ramdisk *ramdisk_new(void);
/* Nothing is open. */
void ramdisk_free(struct ramdisk *disk);
struct qlog_io *ramdisk_io(struct ramdisk *disk);
/* NULL: everything is done. */
void ramdisk_set_fate(struct ramdisk *disk, ramdisk_fate_fn *fate, void *context);
/* From here on what is written is remembered until it is flushed. */
void ramdisk_remember(struct ramdisk *disk);
/* The power goes: what is remembered was never written. Names and sizes stay. */
void ramdisk_lose(struct ramdisk *disk);
/* Replace all contents; nothing is open, nothing is remembered. `image` stays the caller's. */
void ramdisk_load(struct ramdisk *disk, const struct image *image);
/* What is there now, in memory of the caller's. */
void ramdisk_save(const struct ramdisk *disk, struct image *ret_image);

void image_free(struct image *image);
void image_copy(const struct image *image, struct image *ret_image);
/* NULL: no such file. */
struct image_file *image_find(const struct image *image, const char *path);
void image_remove(struct image *image, const char *path);
/* Longer or shorter; what is new is zero. */
void image_resize(struct image_file *file, uint64_t size);

#endif /* TESTS_PROOF_RAMDISK_H */
