#include "label.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "format/record.h"
#include "store/store.h"

static void label_work(struct label *label, struct user *user, enum label_kind kind);
static void label_add(struct label *label, struct user *user, unsigned count, enum qlog_mode mode);
static void label_forget(struct label *label, const struct item *item);
static void label_forget_logs(struct label *label);
static void label_tear(struct label *label, struct user *user);
static void label_open_once(struct label *label, uint64_t seed);
static void label_read_logs(struct label *label);
static void label_read_segment(
    struct label *label, struct labelled_log *log, const struct image_file *file);
static void label_read_frame(
    struct label *label, struct labelled_log *log, const struct image_file *file, uint64_t at);
static enum hit frame_hit(
    const struct frame *frame, const struct image *image, const struct image *damaged);

static void *
must(void *memory)
{
    Q_ASSERT(memory != NULL);
    return memory;
}

static void
must_ok(enum q_err err)
{
    char text[Q_FAULT_LINE_MAX];
    if (err == Q_OK) return;
    (void)fprintf(
        stderr, "while an image is made: %s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
    abort();
}

/* --- Making one. */

void
label_make(struct label *label, bool store, bool clean, enum label_kind kind, uint64_t seed)
{
    static const char *const kinds[] = { "small", "rolled", "trimmed", "recovered" };
    memset(label, 0, sizeof(*label));
    label->store = store;
    label->clean = clean;
    (void)snprintf(
        label->name, sizeof(label->name), "%s-%s-%s", store ? "store" : "log", kinds[kind],
        clean ? "clean" : "killed");
    struct ramdisk *disk = ramdisk_new();
    struct user user;
    user_init(&user, disk, &label->truth, seed);
    must_ok(user_open(&user, store));
    label_work(label, &user, kind);
    if (clean) {
        must_ok(user_close(&user));
        ramdisk_save(disk, &label->image);
    } else {
        ramdisk_save(disk, &label->image);
        user_kill(&user);
    }
    ramdisk_free(disk);
    image_copy(&label->image, &label->indexed);
    for (unsigned i = label->indexed.count; i > 0; i--)
        if (label_is_index(label->indexed.files[i - 1].path))
            image_remove(&label->image, label->indexed.files[i - 1].path);
    label_read_logs(label);
    label_open_once(label, seed);
}

bool
label_is_index(const char *path)
{
    return strstr(path, "/index-") != NULL;
}

static enum qlog_mode
random_mode(struct user *user)
{
    return random_below(&user->random, 3) == 0 ? QLOG_MODE_ASYNC : QLOG_MODE_SYNC;
}

static void
label_keep_older(struct label *label, const struct user *user)
{
    if (label->older_count == OLDER_MAX) return;
    ramdisk_save(user->disk, &label->older[label->older_count++]);
}

static void
label_step(struct label *label, struct user *user, bool trims)
{
    static const char *const groups[] = { "readers", "writers" };
    static const unsigned sleeps[] = { 20, 120, 250, 1100 };
    unsigned subject = random_below(&user->random, SUBJECTS);
    switch (random_below(&user->random, 8)) {
    case 0:
        if (label->store)
            must_ok(user_consume(user, subject, groups[random_below(&user->random, 2)]));
        break;
    case 1:
        must_ok(user_sleep(user, sleeps[random_below(&user->random, 4)]));
        break;
    case 2:
        if (trims && random_below(&user->random, 4) == 0) must_ok(user_trim(user));
        break;
    default:
        if (label->store)
            must_ok(user_publish(user, subject, random_mode(user)));
        else
            must_ok(user_append(user, random_mode(user)));
        break;
    }
}

static void
label_work(struct label *label, struct user *user, enum label_kind kind)
{
    unsigned steps = 6 + random_below(&user->random, 10);
    if (kind != LABEL_SMALL) steps = 50 + random_below(&user->random, 50);
    for (unsigned i = 0; i < steps; i++) {
        label_step(label, user, kind == LABEL_TRIMMED);
        if (random_below(&user->random, steps) < OLDER_MAX) label_keep_older(label, user);
    }
    if (kind == LABEL_RECOVERED) label_tear(label, user);
    /* Frames that are written behind the last mark, as at any moment. */
    label_add(label, user, random_below(&user->random, 4), QLOG_MODE_ASYNC);
}

static void
label_add(struct label *label, struct user *user, unsigned count, enum qlog_mode mode)
{
    for (unsigned i = 0; i < count; i++) {
        if (label->store)
            must_ok(user_publish(user, i % SUBJECTS, mode));
        else
            must_ok(user_append(user, mode));
    }
}

/* Power loss takes a frame out of the middle of the last flight; then it goes on for a bit. */
static void
label_tear(struct label *label, struct user *user)
{
    label_add(label, user, 4 + random_below(&user->random, 4), QLOG_MODE_ASYNC);
    ramdisk_save(user->disk, &label->image);
    user_kill(user);
    label_read_logs(label);
    struct labelled_log *log = &label->logs[0];
    struct verdict_of_log verdict = label_judge(label, &label->image, 0, true);
    unsigned first = log->frame_count;
    while (first > 0 && log->frames[first - 1].header.position >= verdict.mark)
        first--;
    Q_ASSERT(first < log->frame_count);
    unsigned torn = first + random_below(&user->random, log->frame_count - first);
    const struct frame *frame = &log->frames[torn];
    memset(image_find(&label->image, frame->path)->data + frame->at, 0, QL_BLOCK);
    for (unsigned i = torn; i < log->frame_count; i++)
        for (unsigned j = 0; j < log->frames[i].item_count; j++)
            label_forget(label, &log->frames[i].items[j]);
    ramdisk_load(user->disk, &label->image);
    label_forget_logs(label);
    image_free(&label->image);
    must_ok(user_open(user, label->store));
    label_add(label, user, random_below(&user->random, 4), QLOG_MODE_SYNC);
}

/* It is lost, and its sequences are given again. */
static void
label_forget(struct label *label, const struct item *item)
{
    struct truth *truth = &label->truth;
    if (label->store) {
        uint32_t *end = &truth->ends[label->subjects[item->subject]];
        *end = (uint32_t)q_min_u64(*end, item->first);
    } else {
        truth->record_count = (uint32_t)q_min_u64(truth->record_count, item->first);
    }
}

static void
label_forget_logs(struct label *label)
{
    for (unsigned i = 0; i < label->log_count; i++)
        free(label->logs[i].frames);
    memset(label->logs, 0, sizeof(label->logs));
}

void
label_free(struct label *label)
{
    image_free(&label->image);
    image_free(&label->indexed);
    for (unsigned i = 0; i < label->older_count; i++)
        image_free(&label->older[i]);
    label_forget_logs(label);
}

/* What a store says of itself when nothing is wrong. */
static void
label_open_once(struct label *label, uint64_t seed)
{
    if (!label->store) return;
    struct ramdisk *disk = ramdisk_new();
    struct user user;
    user_init(&user, disk, &label->truth, seed);
    ramdisk_load(disk, &label->image);
    must_ok(user_open(&user, true));
    label->state_hash = ql_store_state_hash(user.store);
    label->generation = user.store->home->env.generation;
    user_kill(&user);
    ramdisk_free(disk);
}

/* --- Where everything lies. */

static int
compare_frames(const void *a, const void *b)
{
    const struct frame *left = a;
    const struct frame *right = b;
    return left->header.position < right->header.position   ? -1
           : left->header.position > right->header.position ? 1
                                                            : 0;
}

static void
label_read_logs(struct label *label)
{
    static const char *const store_logs[] = { "message", "action" };
    static const char *const log_logs[] = { "log" };
    label->log_count = label->store ? 2 : 1;
    for (unsigned i = 0; i < label->log_count; i++) {
        struct labelled_log *log = &label->logs[i];
        (void)snprintf(
            log->name, sizeof(log->name), "%s", label->store ? store_logs[i] : log_logs[i]);
        log->frames = must(calloc(FRAMES_MAX, sizeof(*log->frames)));
        char prefix[RAMDISK_PATH_MAX];
        (void)snprintf(prefix, sizeof(prefix), "%s/%s/", user_directory, log->name);
        for (unsigned j = 0; j < label->image.count; j++) {
            const struct image_file *file = &label->image.files[j];
            if (strncmp(file->path, prefix, strlen(prefix)) == 0 && !label_is_index(file->path))
                label_read_segment(label, log, file);
        }
        qsort(log->frames, log->frame_count, sizeof(*log->frames), compare_frames);
        /* Records are numbered from the end, since the head may be gone. */
        uint64_t records = label->truth.record_count;
        if (log->frame_count > 0) log->end = log->frames[log->frame_count - 1].end;
        for (unsigned j = log->frame_count; j > 0 && !label->store; j--) {
            struct frame *frame = &log->frames[j - 1];
            for (unsigned k = frame->item_count; k > 0; k--)
                frame->items[k - 1].first = --records;
        }
    }
}

static void
label_read_segment(struct label *label, struct labelled_log *log, const struct image_file *file)
{
    struct ql_segment_header header;
    enum ql_block_state state = ql_segment_header_decode(file->data, &header);
    Q_ASSERT(state == QL_BLOCK_GOOD);
    if (!header.in_use) return;
    uint64_t at = QL_BLOCK;
    uint64_t generation = 0;
    while (at < file->size) {
        struct ql_frame frame;
        if (ql_frame_decode(file->data + at, &frame) != QL_BLOCK_GOOD) break;
        if (frame.incarnation != header.incarnation) break;
        if (frame.generation < generation) break;
        generation = frame.generation;
        Q_ASSERT(frame.position == header.base + (at - QL_BLOCK));
        label_read_frame(label, log, file, at);
        at += ql_frame_size(frame.body_length);
    }
}

static void
label_read_subject(struct label *label, struct q_bytes bytes)
{
    struct ql_subject_record record;
    enum q_err err = ql_subject_record_decode(bytes, &record);
    Q_ASSERT(err == Q_OK && record.subject_id < SUBJECT_IDS_MAX);
    label->subjects[record.subject_id] = SUBJECTS; /* dead letters: the store's own */
    for (unsigned i = 0; i < SUBJECTS; i++)
        if (q_bytes_equal(record.name, user_subject(i))) label->subjects[record.subject_id] = i;
}

static void
label_read_frame(
    struct label *label, struct labelled_log *log, const struct image_file *file, uint64_t at)
{
    Q_ASSERT(log->frame_count < FRAMES_MAX);
    struct frame *frame = &log->frames[log->frame_count++];
    (void)snprintf(frame->path, sizeof(frame->path), "%s", file->path);
    frame->at = at;
    enum ql_block_state state = ql_frame_decode(file->data + at, &frame->header);
    Q_ASSERT(state == QL_BLOCK_GOOD);
    frame->end = frame->header.position + ql_frame_size(frame->header.body_length);
    const uint8_t *body = file->data + at + QL_FRAME_HEADER_SIZE;
    struct ql_record_walk walk = {
        .records = q_bytes_from(body, frame->header.records_length),
        .payloads = q_bytes_from(
            body + frame->header.records_length,
            frame->header.body_length - frame->header.records_length),
    };
    struct ql_record record;
    while (ql_record_next(&walk, &record) == Q_OK) {
        struct item item = { .count = 1 };
        if (record.kind == QL_RECORD_BATCH) {
            struct qbatch batch;
            enum q_err err = qbatch_open(record.bytes, &batch);
            Q_ASSERT(err == Q_OK && batch.subject_id < SUBJECT_IDS_MAX);
            if (label->subjects[batch.subject_id] == SUBJECTS) continue;
            item.subject = batch.subject_id;
            item.first = batch.first_sequence;
            item.count = batch.message_count;
        } else if (record.kind == QL_RECORD_SUBJECT) {
            label_read_subject(label, record.bytes);
            continue;
        } else if (record.kind != QL_RECORD_BYTES) {
            continue;
        }
        Q_ASSERT(frame->item_count < ITEMS_MAX);
        frame->items[frame->item_count++] = item;
    }
}

/* --- What a fault did. */

bool
image_super(const struct image *image, struct ql_super *ret_super)
{
    char path[RAMDISK_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/superblock", user_directory);
    const struct image_file *file = image_find(image, path);
    bool found = false;
    for (unsigned i = 0; file != NULL && i < QL_SUPER_COPIES; i++) {
        uint8_t block[QL_SUPER_SIZE] = { 0 };
        uint64_t at = (uint64_t)i * QL_SUPER_SIZE;
        if (at < file->size)
            memcpy(block, file->data + at, q_min_u64(QL_SUPER_SIZE, file->size - at));
        struct ql_super super;
        if (ql_super_decode(block, &super) != QL_BLOCK_GOOD) continue;
        if (found && super.sequence < ret_super->sequence) continue;
        *ret_super = super;
        found = true;
    }
    return found;
}

/* Whether bytes [from, to) of a file differ; behind an end there are zeros. */
static bool
bytes_differ(
    const struct image *image,
    const struct image *damaged,
    const char *path,
    uint64_t from,
    uint64_t to)
{
    const struct image_file *was = image_find(image, path);
    const struct image_file *is = image_find(damaged, path);
    for (uint64_t at = from; at < to; at++) {
        uint8_t before = was != NULL && at < was->size ? was->data[at] : 0;
        uint8_t after = is != NULL && at < is->size ? is->data[at] : 0;
        if (before != after) return true;
    }
    return false;
}

static enum hit
frame_hit(const struct frame *frame, const struct image *image, const struct image *damaged)
{
    uint64_t records = frame->at + QL_FRAME_HEADER_SIZE + frame->header.records_length;
    uint64_t body = frame->at + QL_FRAME_HEADER_SIZE + frame->header.body_length;
    uint64_t end = frame->at + ql_frame_size(frame->header.body_length);
    if (bytes_differ(image, damaged, frame->path, frame->at, records)) return HIT_FATAL;
    if (bytes_differ(image, damaged, frame->path, records, body)) return HIT_PAYLOAD;
    if (bytes_differ(image, damaged, frame->path, body, end)) return HIT_PADDING;
    return HIT_NOT;
}

/* Behind the last frame: neither zeros nor frames of an earlier use, but maybe orphans. */
static bool
log_has_more(const struct labelled_log *log, const struct image *damaged)
{
    if (log->frame_count == 0) return false;
    const struct frame *last = &log->frames[log->frame_count - 1];
    char prefix[RAMDISK_PATH_MAX];
    (void)snprintf(prefix, sizeof(prefix), "%s/%s/", user_directory, log->name);
    for (unsigned i = 0; i < damaged->count; i++) {
        const struct image_file *file = &damaged->files[i];
        bool same = strcmp(file->path, last->path) == 0;
        uint64_t end = same ? last->at + (last->end - last->header.position) : QL_BLOCK;
        if (strncmp(file->path, prefix, strlen(prefix)) != 0) continue;
        for (uint64_t at = end; at + QL_BLOCK <= file->size; at += QL_BLOCK) {
            struct ql_frame found;
            bool framed = ql_frame_decode(file->data + at, &found) == QL_BLOCK_GOOD;
            if (framed && found.incarnation >= last->header.incarnation &&
                found.position >= log->end)
                return true;
            bool next = same && at == end;
            if (next && !q_is_zero(file->data + at, QL_BLOCK) &&
                !(framed && found.incarnation < last->header.incarnation))
                return true;
        }
    }
    return false;
}

/* At the end that was cut there is nothing that tells of a write: zeros, or an earlier use. */
static bool
frame_is_blank(
    const struct label *label, unsigned log_index, unsigned index, const struct image *damaged)
{
    const struct labelled_log *log = &label->logs[log_index];
    const struct frame *frame = &log->frames[index];
    for (unsigned i = index + 1; i < log->frame_count; i++)
        if (log->frames[i].hit == HIT_NOT || log->frames[i].hit == HIT_PADDING) return false;
    const struct image_file *file = image_find(damaged, frame->path);
    if (file == NULL || file->size <= frame->at) return true;
    /* Neither its segment's header nor a frame behind it says whose it is. */
    struct ql_segment_header header;
    if (ql_segment_header_decode(file->data, &header) != QL_BLOCK_GOOD && frame->at == QL_BLOCK)
        return true;
    uint8_t block[QL_BLOCK] = { 0 };
    memcpy(block, file->data + frame->at, q_min_u64(QL_BLOCK, file->size - frame->at));
    if (q_is_zero(block, QL_BLOCK)) return true;
    /* What is no frame, where the log was said to end before, was told then. */
    struct ql_frame found;
    struct ql_super super;
    if (ql_frame_decode(block, &found) != QL_BLOCK_GOOD)
        return image_super(damaged, &super) && super.logs[log_index].end == frame->header.position;
    return found.incarnation < frame->header.incarnation;
}

struct verdict_of_log
label_judge(struct label *label, const struct image *damaged, unsigned index, bool deep)
{
    struct labelled_log *log = &label->logs[index];
    struct ql_super super;
    struct verdict_of_log verdict = { .first_hit = log->frame_count, .cut = log->frame_count };
    uint64_t seen = image_super(damaged, &super) ? super.logs[index].durable : 0;
    verdict.mark = seen;
    verdict.beyond = log_has_more(log, damaged);
    for (unsigned i = 0; i < log->frame_count; i++) {
        struct frame *frame = &log->frames[i];
        frame->hit = frame_hit(frame, &label->image, damaged);
        bool whole = frame->hit == HIT_NOT || frame->hit == HIT_PADDING;
        if (whole) verdict.mark = q_max_u64(verdict.mark, frame->header.durable);
        if (!whole && i < verdict.first_hit) verdict.first_hit = i;
        if (i == 0 || strcmp(frame->path, log->frames[i - 1].path) != 0)
            verdict.header =
                verdict.header || bytes_differ(&label->image, damaged, frame->path, 0, QL_BLOCK);
    }
    /* A reader goes forward, and payloads below the mark it knows by then are not looked at. */
    for (unsigned i = 0; i < log->frame_count && !verdict.torn; i++) {
        struct frame *frame = &log->frames[i];
        bool noticed =
            frame->hit == HIT_FATAL || (frame->hit == HIT_PAYLOAD && (deep || frame->end > seen));
        if (!noticed) {
            seen = q_max_u64(seen, frame->header.durable);
        } else if (frame->header.position < verdict.mark) {
            verdict.rot = true;
            seen = verdict.mark;
        } else {
            verdict.torn = true;
            verdict.cut = i;
            verdict.blank = frame_is_blank(label, index, i, damaged);
        }
    }
    return verdict;
}
