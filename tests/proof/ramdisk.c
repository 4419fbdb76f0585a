#include "ramdisk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

enum {
    HANDLES_MAX = 256,
    SECTOR = 512,
    PAGE = 4096
};

/* A file's bytes never move, so that maps stay right while it grows. */
struct slot {
    char path[RAMDISK_PATH_MAX]; /* "": free */
    bool directory;
    bool locked;
    unsigned links; /* open, or mapped */
    uint64_t size;
    uint8_t *data; /* RAMDISK_FILE_BYTES_MAX, zero behind `size`; not accessible behind its page */
};

struct handle {
    struct slot *slot; /* NULL: closed */
    bool direct;
    bool locks;
};

/* What a write that is not flushed took the place of. */
struct undo {
    struct slot *slot;
    uint64_t at;
    uint32_t length;
    uint8_t *old;
};

struct ramdisk {
    struct qlog_io io;
    struct slot slots[RAMDISK_FILES_MAX];
    struct handle handles[HANDLES_MAX];
    struct q_list submitted;
    ramdisk_fate_fn *fate;
    void *fate_context;
    bool remembers;
    struct undo *undos;
    unsigned undo_count;
    unsigned undo_capacity;
};

static const struct qlog_io_table ramdisk_table;
static int64_t ramdisk_do(struct ramdisk *disk, struct qlog_io_op *op);
static void slot_resize(struct slot *slot, uint64_t size);
static void undo_note(struct ramdisk *disk, struct slot *slot, const struct qlog_io_op *op);
static void undo_forget(struct ramdisk *disk, const struct slot *slot);

static struct ramdisk *
disk_of(struct qlog_io *io)
{
    return q_container_of(io, struct ramdisk, io);
}

static void *
must(void *memory)
{
    Q_ASSERT(memory != NULL && memory != MAP_FAILED);
    return memory;
}

struct ramdisk *
ramdisk_new(void)
{
    struct ramdisk *disk = must(calloc(1, sizeof(*disk)));
    disk->io.table = &ramdisk_table;
    q_list_init(&disk->submitted);
    for (unsigned i = 0; i < RAMDISK_FILES_MAX; i++)
        disk->slots[i].data = must(mmap(
            NULL, RAMDISK_FILE_BYTES_MAX, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
            -1, 0));
    return disk;
}

void
ramdisk_free(struct ramdisk *disk)
{
    for (unsigned i = 0; i < RAMDISK_FILES_MAX; i++) {
        Q_ASSERT(disk->slots[i].links == 0);
        (void)munmap(disk->slots[i].data, RAMDISK_FILE_BYTES_MAX);
    }
    undo_forget(disk, NULL);
    free(disk->undos);
    free(disk);
}

struct qlog_io *
ramdisk_io(struct ramdisk *disk)
{
    return &disk->io;
}

void
ramdisk_set_fate(struct ramdisk *disk, ramdisk_fate_fn *fate, void *context)
{
    disk->fate = fate;
    disk->fate_context = context;
}

void
ramdisk_remember(struct ramdisk *disk)
{
    disk->remembers = true;
}

void
ramdisk_lose(struct ramdisk *disk)
{
    for (unsigned i = disk->undo_count; i-- > 0;) {
        const struct undo *undo = &disk->undos[i];
        memcpy(undo->slot->data + undo->at, undo->old, undo->length);
    }
    undo_forget(disk, NULL);
}

void
ramdisk_load(struct ramdisk *disk, const struct image *image)
{
    undo_forget(disk, NULL);
    for (unsigned i = 0; i < RAMDISK_FILES_MAX; i++) {
        struct slot *slot = &disk->slots[i];
        Q_ASSERT(slot->links == 0);
        slot->path[0] = '\0';
        if (i >= image->count) continue;
        const struct image_file *file = &image->files[i];
        (void)snprintf(slot->path, sizeof(slot->path), "%s", file->path);
        slot->directory = file->directory;
        slot->locked = false;
        slot_resize(slot, file->size);
        if (file->size > 0) memcpy(slot->data, file->data, file->size);
    }
}

void
ramdisk_save(const struct ramdisk *disk, struct image *ret_image)
{
    *ret_image = (struct image){ 0 };
    for (unsigned i = 0; i < RAMDISK_FILES_MAX; i++) {
        const struct slot *slot = &disk->slots[i];
        if (slot->path[0] == '\0') continue;
        struct image_file *file = &ret_image->files[ret_image->count++];
        (void)snprintf(file->path, sizeof(file->path), "%s", slot->path);
        file->directory = slot->directory;
        image_resize(file, slot->size);
        if (slot->size > 0) memcpy(file->data, slot->data, slot->size);
    }
}

/* --- Images. */

void
image_free(struct image *image)
{
    for (unsigned i = 0; i < image->count; i++)
        free(image->files[i].data);
    *image = (struct image){ 0 };
}

void
image_copy(const struct image *image, struct image *ret_image)
{
    *ret_image = *image;
    for (unsigned i = 0; i < image->count; i++) {
        struct image_file *file = &ret_image->files[i];
        file->data = must(malloc(file->size + 1));
        if (file->size > 0) memcpy(file->data, image->files[i].data, file->size);
    }
}

struct image_file *
image_find(const struct image *image, const char *path)
{
    for (unsigned i = 0; i < image->count; i++)
        if (strcmp(image->files[i].path, path) == 0)
            return (struct image_file *)(uintptr_t)&image->files[i];
    return NULL;
}

void
image_remove(struct image *image, const char *path)
{
    struct image_file *file = image_find(image, path);
    Q_ASSERT(file != NULL);
    free(file->data);
    *file = image->files[--image->count];
}

void
image_resize(struct image_file *file, uint64_t size)
{
    file->data = must(realloc(file->data, size + 1));
    if (size > file->size) memset(file->data + file->size, 0, size - file->size);
    file->size = size;
}

/* --- Names. */

static struct slot *
slot_find(struct ramdisk *disk, const char *path)
{
    for (unsigned i = 0; i < RAMDISK_FILES_MAX; i++)
        if (strcmp(disk->slots[i].path, path) == 0) return &disk->slots[i];
    return NULL;
}

/* Whether `path` lies in `directory`, and not deeper. */
static bool
path_is_in(const char *path, const char *directory)
{
    size_t size = strlen(directory);
    return strncmp(path, directory, size) == 0 && path[size] == '/' &&
           strchr(path + size + 1, '/') == NULL;
}

static struct slot *
slot_make(struct ramdisk *disk, const char *path, bool directory)
{
    Q_ASSERT(strlen(path) < RAMDISK_PATH_MAX);
    for (unsigned i = 0; i < RAMDISK_FILES_MAX; i++) {
        struct slot *slot = &disk->slots[i];
        if (slot->path[0] != '\0' || slot->links > 0) continue;
        (void)snprintf(slot->path, sizeof(slot->path), "%s", path);
        slot->directory = directory;
        slot->locked = false;
        slot_resize(slot, 0);
        return slot;
    }
    return NULL;
}

static void
slot_resize(struct slot *slot, uint64_t size)
{
    Q_ASSERT(size <= RAMDISK_FILE_BYTES_MAX);
    uint64_t pages = q_align_up(size, PAGE);
    (void)mprotect(slot->data, pages, PROT_READ | PROT_WRITE);
    if (size < slot->size) memset(slot->data + size, 0, pages - size);
    if (size < slot->size) {
        /* Given back, so that they are zero when the file grows again. */
        (void)madvise(slot->data + pages, RAMDISK_FILE_BYTES_MAX - pages, MADV_DONTNEED);
        (void)mprotect(slot->data + pages, RAMDISK_FILE_BYTES_MAX - pages, PROT_NONE);
    }
    slot->size = size;
}

static int
ramdisk_open(struct qlog_io *io, const char *path, unsigned flags)
{
    struct ramdisk *disk = disk_of(io);
    struct slot *slot = slot_find(disk, path);
    if (slot == NULL && (flags & QLOG_IO_OPEN_CREATE) == 0) return -ENOENT;
    if (slot == NULL) slot = slot_make(disk, path, false);
    if (slot == NULL) return -ENOSPC;
    if (slot->directory) return -EISDIR;
    for (int i = 0; i < HANDLES_MAX; i++) {
        if (disk->handles[i].slot != NULL) continue;
        disk->handles[i].slot = slot;
        disk->handles[i].direct = (flags & QLOG_IO_OPEN_DIRECT) != 0;
        disk->handles[i].locks = false;
        slot->links++;
        return i;
    }
    return -EMFILE;
}

static void
ramdisk_close(struct qlog_io *io, int file)
{
    struct handle *handle = &disk_of(io)->handles[file];
    if (handle->locks) handle->slot->locked = false;
    handle->slot->links--;
    handle->slot = NULL;
}

static int
ramdisk_make_directory(struct qlog_io *io, const char *path)
{
    struct ramdisk *disk = disk_of(io);
    if (slot_find(disk, path) != NULL) return -EEXIST;
    return slot_make(disk, path, true) == NULL ? -ENOSPC : 0;
}

static int
ramdisk_sync_directory(struct qlog_io *io, const char *path)
{
    const struct slot *slot = slot_find(disk_of(io), path);
    if (strcmp(path, "/") == 0) return 0;
    if (slot == NULL) return -ENOENT;
    return slot->directory ? 0 : -ENOTDIR;
}

static int
ramdisk_list(struct qlog_io *io, const char *path, qlog_io_list_fn *each, void *context)
{
    struct ramdisk *disk = disk_of(io);
    const struct slot *directory = slot_find(disk, path);
    if (directory == NULL || !directory->directory) return -ENOENT;
    for (unsigned i = 0; i < RAMDISK_FILES_MAX; i++) {
        const char *name = disk->slots[i].path;
        if (path_is_in(name, path) && !each(context, strrchr(name, '/') + 1)) break;
    }
    return 0;
}

static int
ramdisk_unlink(struct qlog_io *io, const char *path)
{
    struct slot *slot = slot_find(disk_of(io), path);
    if (slot == NULL) return -ENOENT;
    slot->path[0] = '\0';
    undo_forget(disk_of(io), slot);
    return 0;
}

/* --- Files. */

static int
ramdisk_size(struct qlog_io *io, int file, uint64_t *ret_size)
{
    *ret_size = disk_of(io)->handles[file].slot->size;
    return 0;
}

static int
ramdisk_allocate(struct qlog_io *io, int file, uint64_t size)
{
    struct slot *slot = disk_of(io)->handles[file].slot;
    if (size > RAMDISK_FILE_BYTES_MAX) return -ENOSPC;
    if (size > slot->size) slot_resize(slot, size);
    return 0;
}

static int
ramdisk_lock(struct qlog_io *io, int file)
{
    struct handle *handle = &disk_of(io)->handles[file];
    if (handle->slot->locked && !handle->locks) return -EWOULDBLOCK;
    handle->slot->locked = true;
    handle->locks = true;
    return 0;
}

static const uint8_t *
ramdisk_map(struct qlog_io *io, int file, uint64_t size, int *ret_error)
{
    struct slot *slot = disk_of(io)->handles[file].slot;
    if (size > RAMDISK_FILE_BYTES_MAX) {
        *ret_error = -ENOMEM;
        return NULL;
    }
    slot->links++;
    return slot->data;
}

static void
ramdisk_unmap(struct qlog_io *io, const uint8_t *data, uint64_t size)
{
    struct ramdisk *disk = disk_of(io);
    (void)size;
    for (unsigned i = 0; i < RAMDISK_FILES_MAX; i++)
        if (disk->slots[i].data == data) disk->slots[i].links--;
}

static int
ramdisk_space(struct qlog_io *io, const char *path, uint64_t *ret_free, uint64_t *ret_total)
{
    (void)io;
    (void)path;
    *ret_free = UINT64_C(1) << 40;
    *ret_total = UINT64_C(1) << 40;
    return 0;
}

/* --- Operations. */

static void
ramdisk_submit(struct qlog_io *io, struct qlog_io_op *op)
{
    q_list_push_back(&disk_of(io)->submitted, &op->link);
}

static int
ramdisk_enter(struct qlog_io *io, uint64_t wait_ns)
{
    struct ramdisk *disk = disk_of(io);
    struct q_list complete;
    (void)wait_ns;
    q_list_init(&complete);
    q_list_splice_back(&complete, &disk->submitted);
    struct q_list *link;
    while ((link = q_list_pop_front(&complete)) != NULL) {
        struct qlog_io_op *op = q_container_of(link, struct qlog_io_op, link);
        enum ramdisk_fate fate = RAMDISK_DO;
        if (disk->fate != NULL) fate = disk->fate(disk->fate_context, op);
        if (fate == RAMDISK_HOLD) {
            q_list_push_back(&disk->submitted, &op->link);
            continue;
        }
        uint32_t length = op->length;
        if (fate == RAMDISK_HALF && op->length > SECTOR)
            op->length = (uint32_t)q_align_up(length / 2, SECTOR);
        op->result = fate == RAMDISK_FAIL ? -EIO : ramdisk_do(disk, op);
        op->length = length;
        op->done(op);
    }
    return 0;
}

static int64_t
ramdisk_do(struct ramdisk *disk, struct qlog_io_op *op)
{
    const struct handle *handle = &disk->handles[op->file];
    struct slot *slot = handle->slot;
    Q_ASSERT(slot != NULL);
    if (op->kind == QLOG_IO_FLUSH) {
        undo_forget(disk, slot);
        return 0;
    }
    if (handle->direct &&
        (op->at % SECTOR != 0 || op->length % SECTOR != 0 || (uintptr_t)op->data % SECTOR != 0))
        return -EINVAL;
    if (op->kind == QLOG_IO_WRITE) {
        if (op->at + op->length > RAMDISK_FILE_BYTES_MAX) return -ENOSPC;
        if (op->at + op->length > slot->size) slot_resize(slot, op->at + op->length);
        if (disk->remembers) undo_note(disk, slot, op);
        memcpy(slot->data + op->at, op->data, op->length);
        return op->length;
    }
    if (op->at >= slot->size) return 0;
    uint64_t length = q_min_u64(op->length, slot->size - op->at);
    memcpy(op->data, slot->data + op->at, length);
    return (int64_t)length;
}

/* A durable write counts for its own bytes, whatever was there and is not flushed. */
static void
undo_note(struct ramdisk *disk, struct slot *slot, const struct qlog_io_op *op)
{
    for (unsigned i = 0; op->durable && i < disk->undo_count; i++) {
        const struct undo *undo = &disk->undos[i];
        uint64_t from = q_max_u64(undo->at, op->at);
        uint64_t to = q_min_u64(undo->at + undo->length, op->at + op->length);
        if (undo->slot != slot || from >= to) continue;
        memcpy(undo->old + (from - undo->at), (uint8_t *)op->data + (from - op->at), to - from);
    }
    if (op->durable) return;
    if (disk->undo_count == disk->undo_capacity) {
        disk->undo_capacity = 2 * disk->undo_capacity + 16;
        disk->undos = must(realloc(disk->undos, disk->undo_capacity * sizeof(disk->undos[0])));
    }
    struct undo *undo = &disk->undos[disk->undo_count++];
    *undo = (struct undo){ slot, op->at, op->length, must(malloc(op->length)) };
    memcpy(undo->old, slot->data + op->at, op->length);
}

/* Of one file, or (NULL) of all. */
static void
undo_forget(struct ramdisk *disk, const struct slot *slot)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < disk->undo_count; i++) {
        if (slot != NULL && disk->undos[i].slot != slot)
            disk->undos[kept++] = disk->undos[i];
        else
            free(disk->undos[i].old);
    }
    disk->undo_count = kept;
}

static void
ramdisk_wake(struct qlog_io *io)
{
    (void)io;
}

static int
ramdisk_register_buffer(struct qlog_io *io, void *data, size_t size)
{
    (void)io;
    (void)data;
    (void)size;
    return -EOPNOTSUPP;
}

static void
ramdisk_destroy(struct qlog_io *io)
{
    /* The disk outlives the programs that use it. */
    (void)io;
}

static const struct qlog_io_table ramdisk_table = {
    .name = "ramdisk",
    .submit = ramdisk_submit,
    .enter = ramdisk_enter,
    .wake = ramdisk_wake,
    .register_buffer = ramdisk_register_buffer,
    .destroy = ramdisk_destroy,
    .open = ramdisk_open,
    .close = ramdisk_close,
    .size = ramdisk_size,
    .allocate = ramdisk_allocate,
    .lock = ramdisk_lock,
    .map = ramdisk_map,
    .unmap = ramdisk_unmap,
    .make_directory = ramdisk_make_directory,
    .sync_directory = ramdisk_sync_directory,
    .list = ramdisk_list,
    .unlink = ramdisk_unlink,
    .space = ramdisk_space,
};
