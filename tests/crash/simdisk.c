#include "simdisk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "random.h"

enum {
    HANDLES_MAX = 256
};

/* A file as programs see it. */
struct view {
    uint8_t *data;
    uint64_t size;
    unsigned maps;
};

struct handle {
    bool open;
    bool direct;
    bool locks;
    unsigned file;
};

struct simdisk {
    struct qlog_io io;
    struct simdisk_front *front;
    struct media *start; /* the medium before the first event */
    struct media_event *events;
    uint64_t event_count;
    uint64_t event_capacity;

    struct view *views; /* by file */
    unsigned view_count;
    struct media_name *names; /* with completed changes */
    unsigned name_count;
    struct handle handles[HANDLES_MAX];
    struct random_source random;
    struct q_list under_way; /* qlog_io_op */
    unsigned under_way_count;
    bool dead;
};

static const struct qlog_io_table sim_table;
static void sim_load(struct simdisk *disk, const struct media *media);
static void sim_unload(struct simdisk *disk);
static struct media_event *sim_record(struct simdisk *disk, enum media_event_kind kind);
static void sim_complete(struct simdisk *disk, struct qlog_io_op *op);
static int64_t sim_read(struct simdisk *disk, struct qlog_io_op *op);
static int64_t sim_write(struct simdisk *disk, struct qlog_io_op *op);

static struct simdisk *
disk_of(struct qlog_io *io)
{
    return q_container_of(io, struct simdisk, io);
}

static void *
must(void *memory)
{
    Q_ASSERT(memory != NULL);
    return memory;
}

struct simdisk *
simdisk_new(struct media *media, uint64_t seed)
{
    struct simdisk *disk = must(calloc(1, sizeof(*disk)));
    disk->io.table = &sim_table;
    disk->start = media;
    disk->random.state = seed;
    q_list_init(&disk->under_way);
    sim_load(disk, media);
    return disk;
}

void
simdisk_free(struct simdisk *disk)
{
    if (disk == NULL) return;
    Q_ASSERT(disk->under_way_count == 0);
    sim_unload(disk);
    media_free(disk->start);
    for (uint64_t i = 0; i < disk->event_count; i++)
        free(disk->events[i].data);
    free(disk->events);
    free(disk);
}

struct qlog_io *
simdisk_io(struct simdisk *disk)
{
    return disk->front == NULL ? &disk->io : &disk->front->io;
}

struct qlog_io *
simdisk_raw_io(struct simdisk *disk)
{
    return &disk->io;
}

void
simdisk_set_front(struct simdisk *disk, struct simdisk_front *front)
{
    disk->front = front;
}

bool
simdisk_has_failed(const struct simdisk *disk)
{
    return disk->front != NULL && disk->front->fired;
}

bool
simdisk_must_break(const struct simdisk *disk)
{
    return disk->front != NULL && disk->front->must_break;
}

uint64_t
simdisk_now(const struct simdisk *disk)
{
    return disk->event_count;
}

struct media *
simdisk_media_at(const struct simdisk *disk, uint64_t moment)
{
    Q_ASSERT(moment <= disk->event_count);
    struct media *media = media_clone(disk->start);
    for (uint64_t i = 0; i < moment; i++)
        media_apply(media, &disk->events[i]);
    return media;
}

void
simdisk_media_step(const struct simdisk *disk, struct media *media)
{
    uint64_t moment = media->events - disk->start->events;
    Q_ASSERT(moment < disk->event_count);
    media_apply(media, &disk->events[moment]);
}

void
simdisk_die(struct simdisk *disk)
{
    disk->dead = true;
}

void
simdisk_crash(struct simdisk *disk, const struct crash_rule *rule)
{
    Q_ASSERT(disk->dead && disk->under_way_count == 0);
    sim_record(disk, MEDIA_CRASHED)->rule = *rule;
    struct media *media = simdisk_media_at(disk, disk->event_count);
    sim_unload(disk);
    sim_load(disk, media);
    media_free(media);
    disk->dead = false;
}

struct crash_rule
simdisk_random_rule(const struct simdisk *disk, uint64_t seed, bool kill)
{
    struct random_source random = { .state = seed };
    struct media *media = simdisk_media_at(disk, disk->event_count);
    unsigned count = media_rule_count(media);
    struct crash_rule rule;
    do {
        rule = media_rule(media, random_below(&random, count), seed);
    } while (crash_is_kill(&rule) != kill);
    media_free(media);
    return rule;
}

static void
sim_load(struct simdisk *disk, const struct media *media)
{
    disk->view_count = media->file_count;
    disk->views = must(calloc(media->file_count + 1, sizeof(*disk->views)));
    for (unsigned i = 0; i < media->file_count; i++)
        disk->views[i].data = media_read(media, i, &disk->views[i].size);
    disk->name_count = media->name_count;
    disk->names = must(calloc(media->name_count, sizeof(*disk->names)));
    for (unsigned i = 0; i < media->name_count; i++) {
        disk->names[i] = media->names[i];
        disk->names[i].target = media_target(media, i);
    }
}

static void
sim_unload(struct simdisk *disk)
{
    for (unsigned i = 0; i < HANDLES_MAX; i++)
        Q_ASSERT(!disk->handles[i].open);
    for (unsigned i = 0; i < disk->view_count; i++) {
        Q_ASSERT(disk->views[i].maps == 0);
        free(disk->views[i].data);
    }
    free(disk->views);
    free(disk->names);
}

static struct media_event *
sim_record(struct simdisk *disk, enum media_event_kind kind)
{
    if (disk->event_count == disk->event_capacity) {
        disk->event_capacity = disk->event_capacity == 0 ? 64 : disk->event_capacity * 2;
        disk->events = must(realloc(disk->events, disk->event_capacity * sizeof(*disk->events)));
    }
    struct media_event *event = &disk->events[disk->event_count++];
    *event = (struct media_event){ .kind = kind };
    return event;
}

/* The number that the medium gives to the event recorded last. */
static uint64_t
sim_last_number(const struct simdisk *disk)
{
    return disk->start->events + disk->event_count - 1;
}

/* --- Names. */

static struct media_name *
sim_name(struct simdisk *disk, const char *path)
{
    for (unsigned i = 0; i < disk->name_count; i++)
        if (strcmp(disk->names[i].path, path) == 0) return &disk->names[i];
    return NULL;
}

static int
sim_target(struct simdisk *disk, const char *path)
{
    const struct media_name *name = sim_name(disk, path);
    return name == NULL ? MEDIA_NOTHING : name->target;
}

static void
sim_set_target(struct simdisk *disk, const char *path, int target)
{
    struct media_name *name = sim_name(disk, path);
    if (name == NULL) {
        Q_ASSERT(strlen(path) < MEDIA_PATH_MAX);
        disk->names = must(realloc(disk->names, (disk->name_count + 1) * sizeof(*disk->names)));
        name = &disk->names[disk->name_count++];
        (void)snprintf(name->path, sizeof(name->path), "%s", path);
    }
    name->target = target;
    struct media_event *event = sim_record(disk, MEDIA_NAMED);
    (void)snprintf(event->path, sizeof(event->path), "%s", path);
    event->target = target;
}

static bool
sim_parent_exists(struct simdisk *disk, const char *path)
{
    for (unsigned i = 0; i < disk->name_count; i++)
        if (disk->names[i].target == MEDIA_DIRECTORY && media_is_in(path, disk->names[i].path))
            return true;
    return false;
}

static int
sim_open(struct qlog_io *io, const char *path, unsigned flags)
{
    struct simdisk *disk = disk_of(io);
    if (disk->dead) return -EIO;
    int target = sim_target(disk, path);
    if (target == MEDIA_DIRECTORY) return -EISDIR;
    if (target == MEDIA_NOTHING) {
        if ((flags & QLOG_IO_OPEN_CREATE) == 0 || !sim_parent_exists(disk, path)) return -ENOENT;
        target = (int)disk->view_count++;
        disk->views = must(realloc(disk->views, disk->view_count * sizeof(*disk->views)));
        disk->views[target] = (struct view){ 0 };
        sim_set_target(disk, path, target);
    }
    for (int i = 0; i < HANDLES_MAX; i++) {
        if (disk->handles[i].open) continue;
        disk->handles[i] = (struct handle){
            .open = true,
            .direct = (flags & QLOG_IO_OPEN_DIRECT) != 0,
            .file = (unsigned)target,
        };
        return i;
    }
    return -EMFILE;
}

static void
sim_close(struct qlog_io *io, int file)
{
    disk_of(io)->handles[file].open = false;
}

static int
sim_make_directory(struct qlog_io *io, const char *path)
{
    struct simdisk *disk = disk_of(io);
    if (disk->dead) return -EIO;
    if (sim_target(disk, path) != MEDIA_NOTHING) return -EEXIST;
    if (!sim_parent_exists(disk, path)) return -ENOENT;
    sim_set_target(disk, path, MEDIA_DIRECTORY);
    return 0;
}

static int
sim_sync_directory(struct qlog_io *io, const char *path)
{
    struct simdisk *disk = disk_of(io);
    if (disk->dead) return -EIO;
    int target = sim_target(disk, path);
    if (target != MEDIA_DIRECTORY) return target == MEDIA_NOTHING ? -ENOENT : -ENOTDIR;
    struct media_event *event = sim_record(disk, MEDIA_SYNCED);
    (void)snprintf(event->path, sizeof(event->path), "%s", path);
    return 0;
}

static int
sim_list(struct qlog_io *io, const char *path, qlog_io_list_fn *each, void *context)
{
    struct simdisk *disk = disk_of(io);
    if (disk->dead) return -EIO;
    if (sim_target(disk, path) != MEDIA_DIRECTORY) return -ENOENT;
    for (unsigned i = 0; i < disk->name_count; i++) {
        const struct media_name *name = &disk->names[i];
        if (name->target == MEDIA_NOTHING || !media_is_in(name->path, path)) continue;
        if (!each(context, strrchr(name->path, '/') + 1)) break;
    }
    return 0;
}

static int
sim_unlink(struct qlog_io *io, const char *path)
{
    struct simdisk *disk = disk_of(io);
    if (disk->dead) return -EIO;
    if (sim_target(disk, path) == MEDIA_NOTHING) return -ENOENT;
    sim_set_target(disk, path, MEDIA_NOTHING);
    return 0;
}

/* --- Files. */

static struct view *
sim_view(struct simdisk *disk, int file)
{
    Q_ASSERT(file >= 0 && file < HANDLES_MAX && disk->handles[file].open);
    return &disk->views[disk->handles[file].file];
}

static int
sim_size(struct qlog_io *io, int file, uint64_t *ret_size)
{
    struct simdisk *disk = disk_of(io);
    if (disk->dead) return -EIO;
    *ret_size = sim_view(disk, file)->size;
    return 0;
}

static void
sim_grow(struct simdisk *disk, int file, uint64_t size)
{
    struct view *view = sim_view(disk, file);
    if (size <= view->size) return;
    /* Maps would lose their memory. */
    Q_ASSERT(view->maps == 0);
    view->data = must(realloc(view->data, size));
    memset(view->data + view->size, 0, size - view->size);
    view->size = size;
    struct media_event *event = sim_record(disk, MEDIA_SIZED);
    event->file = disk->handles[file].file;
    event->size = size;
}

static int
sim_allocate(struct qlog_io *io, int file, uint64_t size)
{
    struct simdisk *disk = disk_of(io);
    if (disk->dead) return -EIO;
    sim_grow(disk, file, size);
    return 0;
}

static int
sim_lock(struct qlog_io *io, int file)
{
    struct simdisk *disk = disk_of(io);
    if (disk->dead) return -EIO;
    for (int i = 0; i < HANDLES_MAX; i++) {
        const struct handle *handle = &disk->handles[i];
        if (i != file && handle->open && handle->locks && handle->file == disk->handles[file].file)
            return -EWOULDBLOCK;
    }
    disk->handles[file].locks = true;
    return 0;
}

static const uint8_t *
sim_map(struct qlog_io *io, int file, uint64_t size, int *ret_error)
{
    struct simdisk *disk = disk_of(io);
    struct view *view = sim_view(disk, file);
    if (disk->dead || size > view->size) {
        *ret_error = disk->dead ? -EIO : -EINVAL;
        return NULL;
    }
    view->maps++;
    return view->data;
}

static void
sim_unmap(struct qlog_io *io, const uint8_t *data, uint64_t size)
{
    struct simdisk *disk = disk_of(io);
    (void)size;
    for (unsigned i = 0; i < disk->view_count; i++)
        if (disk->views[i].data == data) disk->views[i].maps--;
}

static int
sim_space(struct qlog_io *io, const char *path, uint64_t *ret_free, uint64_t *ret_total)
{
    (void)io;
    (void)path;
    *ret_free = UINT64_C(1) << 40;
    *ret_total = UINT64_C(1) << 40;
    return 0;
}

/* --- Operations. */

static void
sim_submit(struct qlog_io *io, struct qlog_io_op *op)
{
    struct simdisk *disk = disk_of(io);
    q_list_push_back(&disk->under_way, &op->link);
    disk->under_way_count++;
    op->result = 0;
    if (disk->dead || op->kind == QLOG_IO_READ) return;
    const struct handle *handle = &disk->handles[op->file];
    Q_ASSERT(handle->open);
    if (op->kind == QLOG_IO_FLUSH) {
        sim_record(disk, MEDIA_PASSED);
    } else {
        Q_ASSERT(op->length > 0 && op->length % MEDIA_SECTOR == 0 && op->at % MEDIA_SECTOR == 0);
        Q_ASSERT(!handle->direct || (uintptr_t)op->data % MEDIA_SECTOR == 0);
        sim_grow(disk, op->file, op->at + op->length);
        struct media_event *event = sim_record(disk, MEDIA_WRITE);
        event->file = handle->file;
        event->at = op->at;
        event->length = op->length;
        event->data = must(malloc(op->length));
        memcpy(event->data, op->data, op->length);
    }
    /* Until it is complete, the result is where the medium finds it again. */
    op->result = (int64_t)sim_last_number(disk);
}

static int
sim_enter(struct qlog_io *io, uint64_t wait_ns)
{
    struct simdisk *disk = disk_of(io);
    unsigned count = disk->under_way_count;
    if (count == 0) return 0;
    if (!disk->dead)
        count = wait_ns > 0 ? 1 + random_below(&disk->random, count)
                            : random_below(&disk->random, count + 1);
    struct q_list complete;
    q_list_init(&complete);
    for (unsigned i = 0; i < count; i++) {
        struct q_list *link = disk->under_way.next;
        for (unsigned skip = random_below(&disk->random, disk->under_way_count); skip > 0; skip--)
            link = link->next;
        q_list_remove(link);
        q_list_push_back(&complete, link);
        disk->under_way_count--;
    }
    struct q_list *link;
    while ((link = q_list_pop_front(&complete)) != NULL) {
        struct qlog_io_op *op = q_container_of(link, struct qlog_io_op, link);
        sim_complete(disk, op);
        op->done(op);
    }
    return 0;
}

static void
sim_complete(struct simdisk *disk, struct qlog_io_op *op)
{
    if (disk->dead) {
        op->result = -EIO;
        return;
    }
    if (op->kind == QLOG_IO_READ) {
        op->result = sim_read(disk, op);
    } else if (op->kind == QLOG_IO_WRITE) {
        op->result = sim_write(disk, op);
    } else {
        struct media_event *event = sim_record(disk, MEDIA_FLUSHED);
        event->file = disk->handles[op->file].file;
        event->begun = (uint64_t)op->result;
        op->result = 0;
    }
}

static int64_t
sim_read(struct simdisk *disk, struct qlog_io_op *op)
{
    const struct view *view = sim_view(disk, op->file);
    if (disk->handles[op->file].direct &&
        (op->at % MEDIA_SECTOR != 0 || op->length % MEDIA_SECTOR != 0 ||
         (uintptr_t)op->data % MEDIA_SECTOR != 0))
        return -EINVAL;
    if (op->at >= view->size) return 0;
    uint64_t length = view->size - op->at < op->length ? view->size - op->at : op->length;
    memcpy(op->data, view->data + op->at, length);
    return (int64_t)length;
}

static int64_t
sim_write(struct simdisk *disk, struct qlog_io_op *op)
{
    struct media_event *event = sim_record(disk, MEDIA_WRITTEN);
    event->file = disk->handles[op->file].file;
    event->begun = (uint64_t)op->result;
    event->durable = op->durable;
    memcpy(sim_view(disk, op->file)->data + op->at, op->data, op->length);
    return op->length;
}

static void
sim_wake(struct qlog_io *io)
{
    (void)io;
}

static int
sim_register_buffer(struct qlog_io *io, void *data, size_t size)
{
    (void)io;
    (void)data;
    (void)size;
    return 0;
}

static void
sim_destroy(struct qlog_io *io)
{
    /* The disk outlives the programs that use it. */
    (void)io;
}

static const struct qlog_io_table sim_table = {
    .name = "simdisk",
    .submit = sim_submit,
    .enter = sim_enter,
    .wake = sim_wake,
    .register_buffer = sim_register_buffer,
    .destroy = sim_destroy,
    .open = sim_open,
    .close = sim_close,
    .size = sim_size,
    .allocate = sim_allocate,
    .lock = sim_lock,
    .map = sim_map,
    .unmap = sim_unmap,
    .make_directory = sim_make_directory,
    .sync_directory = sim_sync_directory,
    .list = sim_list,
    .unlink = sim_unlink,
    .space = sim_space,
};
