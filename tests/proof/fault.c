#include "fault.h"

#include <stdio.h>
#include <string.h>

#include "format/index_file.h"

enum place {
    PLACE_SUPER,
    PLACE_SEGMENT_HEADER,
    PLACE_FRAME_HEADER,
    PLACE_RECORDS,
    PLACE_PAYLOAD,
    PLACE_PADDING,
    PLACE_SPARE,
    PLACE_LOCK,
    PLACE_INDEX, /* of a directory that has its index files; all others have none */
    PLACES
};

enum kind {
    KIND_BIT,
    KIND_RUN,
    KIND_SECTOR,
    KIND_SECTOR_ZERO,
    KIND_BLOCK_ZERO,
    KIND_TRUNCATED,
    KIND_MISDIRECTED,
    KIND_STALE,
    KIND_MISSING,
    KINDS
};

static const char *const place_names[PLACES] = {
    "superblock", "segment header", "frame header", "records", "payload",
    "padding",    "spare",          "LOCK",         "index",
};
static const char *const kind_names[KINDS] = {
    "bit", "run", "sector", "zero sector", "zero block", "cut", "misdirected", "stale", "missing",
};

/* Bytes of a file that a fault may hit. */
struct range {
    char path[RAMDISK_PATH_MAX];
    uint64_t from;
    uint64_t to;
};

static unsigned ranges_of(
    const struct label *label, enum place place, struct range *ranges, unsigned max);
static void damage(
    const struct label *label,
    struct image *image,
    const struct range *range,
    enum kind kind,
    struct random_source *random);
static void misdirect(
    const struct label *label, struct image_file *file, uint64_t at, struct random_source *random);
static struct range random_unit(const struct label *label, struct random_source *random);
static void make_stale(
    const struct label *label, struct image_file *file, uint64_t at, struct random_source *random);
static void write_random(
    struct image_file *file, uint64_t from, uint64_t to, struct random_source *random);
static void write_zeros(struct image_file *file, uint64_t from, uint64_t to);
static bool images_differ(const struct image *a, const struct image *b);

void
fault_make(
    const struct label *label,
    struct random_source *random,
    struct image *ret_image,
    char *what,
    size_t what_size)
{
    static struct range ranges[LOGS_MAX * FRAMES_MAX];
    for (;;) {
        enum place place = random_below(random, PLACES);
        enum kind kind = random_below(random, KINDS);
        unsigned count = ranges_of(label, place, ranges, LOGS_MAX * FRAMES_MAX);
        if (count == 0) continue;
        const struct range *range = &ranges[random_below(random, count)];
        const struct image *whole = place == PLACE_INDEX ? &label->indexed : &label->image;
        image_copy(whole, ret_image);
        damage(label, ret_image, range, kind, random);
        if (images_differ(whole, ret_image)) {
            (void)snprintf(
                what, what_size, ": %s in the %s, %s from %llu", kind_names[kind],
                place_names[place], range->path, (unsigned long long)range->from);
            return;
        }
        image_free(ret_image);
    }
}

/* All ranges of a place on an image. Count, at most `max`. */
static unsigned
ranges_of(const struct label *label, enum place place, struct range *ranges, unsigned max)
{
    unsigned count = 0;
    for (unsigned i = 0; place == PLACE_INDEX && i < label->indexed.count; i++) {
        const struct image_file *file = &label->indexed.files[i];
        if (!label_is_index(file->path) || count == max) continue;
        ranges[count] = (struct range){ .to = file->size };
        (void)snprintf(ranges[count].path, RAMDISK_PATH_MAX, "%s", file->path);
        /* The header, and the tables. */
        struct ql_index_header header;
        if (ql_index_header_decode(file->data, &header) != QL_BLOCK_GOOD) continue;
        struct ql_index_layout layout = ql_index_layout(&header);
        if (count % 3 == 0) ranges[count].to = 256;
        if (count % 3 != 0) ranges[count].from = layout.entries_at;
        if (count % 3 != 0) ranges[count].to = layout.pages_at + layout.page_count * 8;
        if (ranges[count].from == ranges[count].to) continue;
        count++;
    }
    for (unsigned i = 0; place != PLACE_INDEX && i < label->image.count; i++) {
        const struct image_file *file = &label->image.files[i];
        bool super = strstr(file->path, "/superblock") != NULL;
        bool lock = strstr(file->path, "/LOCK") != NULL;
        struct range range = { .to = file->size };
        (void)snprintf(range.path, sizeof(range.path), "%s", file->path);
        bool wanted = false;
        if (file->directory || super || lock) {
            wanted = (super && place == PLACE_SUPER) || (lock && place == PLACE_LOCK);
            if (lock) range.to = 1;
        } else {
            bool in_use = file->data[QL_SEGMENT_STATE] == 1;
            wanted = in_use ? place == PLACE_SEGMENT_HEADER : place == PLACE_SPARE;
            /* Most of a spare is nothing. */
            if (wanted) range.to = in_use ? QL_BLOCK : 2 * QL_BLOCK;
        }
        if (wanted && count < max) ranges[count++] = range;
    }
    for (unsigned i = 0; i < label->log_count; i++) {
        for (unsigned j = 0; j < label->logs[i].frame_count && count < max; j++) {
            const struct frame *frame = &label->logs[i].frames[j];
            uint64_t body = frame->at + QL_FRAME_HEADER_SIZE;
            struct range range = { .from = frame->at, .to = body };
            (void)snprintf(range.path, sizeof(range.path), "%s", frame->path);
            if (place == PLACE_RECORDS) {
                range.from = body;
                range.to = body + frame->header.records_length;
            } else if (place == PLACE_PAYLOAD) {
                range.from = body + frame->header.records_length;
                range.to = body + frame->header.body_length;
            } else if (place == PLACE_PADDING) {
                range.from = body + frame->header.body_length;
                range.to = frame->at + ql_frame_size(frame->header.body_length);
            } else if (place != PLACE_FRAME_HEADER) {
                break;
            }
            if (range.from < range.to) ranges[count++] = range;
        }
    }
    return count;
}

/* Something that is right where it is: a frame, a segment's header, a superblock copy. */
static struct range
random_unit(const struct label *label, struct random_source *random)
{
    static struct range ranges[LOGS_MAX * FRAMES_MAX];
    static const enum place places[] = { PLACE_FRAME_HEADER, PLACE_FRAME_HEADER, PLACE_SUPER,
                                         PLACE_SEGMENT_HEADER, PLACE_SPARE };
    unsigned count = 0;
    enum place place;
    do {
        place = places[random_below(random, 5)];
        count = ranges_of(label, place, ranges, LOGS_MAX * FRAMES_MAX);
    } while (count == 0);
    struct range range = ranges[random_below(random, count)];
    range.to = range.from + QL_BLOCK;
    if (place == PLACE_SUPER) {
        range.from = (uint64_t)random_below(random, QL_SUPER_COPIES) * QL_SUPER_SIZE;
        range.to = range.from + QL_SUPER_SIZE;
    }
    for (unsigned i = 0; place == PLACE_FRAME_HEADER && i < label->log_count; i++) {
        for (unsigned j = 0; j < label->logs[i].frame_count; j++) {
            const struct frame *frame = &label->logs[i].frames[j];
            if (frame->at == range.from && strcmp(frame->path, range.path) == 0)
                range.to = frame->at + ql_frame_size(frame->header.body_length);
        }
    }
    return range;
}

static void
write_random(struct image_file *file, uint64_t from, uint64_t to, struct random_source *random)
{
    if (to > file->size) image_resize(file, to);
    for (uint64_t at = from; at < to; at++)
        file->data[at] = (uint8_t)random_u64(random);
}

static void
write_zeros(struct image_file *file, uint64_t from, uint64_t to)
{
    to = q_min_u64(to, file->size);
    if (from < to) memset(file->data + from, 0, to - from);
}

static void
misdirect(
    const struct label *label, struct image_file *file, uint64_t at, struct random_source *random)
{
    struct range unit = random_unit(label, random);
    const struct image_file *from = image_find(&label->image, unit.path);
    /* Half of them go where they would belong in another file. */
    uint64_t to = random_below(random, 2) == 0 ? unit.from : at - at % QL_BLOCK;
    uint64_t size = q_min_u64(unit.to, from->size) - unit.from;
    if (to + size > file->size) to = at - at % QL_BLOCK;
    if (to + size > file->size) size = file->size > to ? file->size - to : 0;
    memcpy(file->data + to, from->data + unit.from, size);
}

static void
make_stale(
    const struct label *label, struct image_file *file, uint64_t at, struct random_source *random)
{
    uint64_t from = at - at % QL_BLOCK;
    uint64_t size = q_min_u64(QL_BLOCK, file->size - from);
    uint8_t zeros[QL_BLOCK] = { 0 };
    unsigned which = random_below(random, OLDER_MAX);
    const struct image_file *older =
        which < label->older_count ? image_find(&label->older[which], file->path) : NULL;
    bool there = older != NULL && older->size >= from + size;
    memcpy(file->data + from, there ? older->data + from : zeros, size);
}

/* Do it to `image`. */
static void
damage(
    const struct label *label,
    struct image *image,
    const struct range *range,
    enum kind kind,
    struct random_source *random)
{
    struct image_file *file = image_find(image, range->path);
    uint64_t at = range->from + random_below(random, (uint32_t)(range->to - range->from));
    if (at >= file->size && kind != KIND_MISSING && kind != KIND_TRUNCATED) {
        write_random(file, at, at + 1 + random_below(random, 600), random);
        return;
    }
    switch (kind) {
    case KIND_BIT:
        file->data[at] ^= (uint8_t)(1u << random_below(random, 8));
        break;
    case KIND_RUN:
        write_random(file, at, q_min_u64(at + 2 + random_below(random, 700), file->size), random);
        break;
    case KIND_SECTOR:
        write_random(file, at - at % 512, at - at % 512 + 512, random);
        break;
    case KIND_SECTOR_ZERO:
        write_zeros(file, at - at % 512, at - at % 512 + 512);
        break;
    case KIND_BLOCK_ZERO:
        write_zeros(file, at - at % QL_BLOCK, at - at % QL_BLOCK + QL_BLOCK);
        break;
    case KIND_TRUNCATED: {
        static const uint64_t units[] = { 1, 512, QL_BLOCK, RAMDISK_FILE_BYTES_MAX };
        image_resize(file, at - at % units[random_below(random, 4)]);
        break;
    }
    case KIND_MISDIRECTED:
        misdirect(label, file, at, random);
        break;
    case KIND_STALE:
        make_stale(label, file, at, random);
        break;
    default:
        image_remove(image, range->path);
        break;
    }
}

static bool
images_differ(const struct image *a, const struct image *b)
{
    if (a->count != b->count) return true;
    for (unsigned i = 0; i < a->count; i++) {
        const struct image_file *one = &a->files[i];
        const struct image_file *other = image_find(b, one->path);
        if (other == NULL || one->size != other->size) return true;
        if (one->size > 0 && memcmp(one->data, other->data, one->size) != 0) return true;
    }
    return false;
}
