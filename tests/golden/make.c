/*
 * make: write the directories that the golden files are (tests/assets), each into OUT/NAME.
 *
 *   golden-make OUT
 *
 * They are made on a disk in memory with a clock and random numbers of their own, so that the same
 * code makes the same bytes. What is damaged here is damaged on purpose; what each is to show stands
 * beside its name in `assets`. golden.py packs them and writes down what is to come out.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <qbase/assert.h>
#include <qbatch/build.h>

#include "format/block.h"
#include "user.h"

enum {
    TURNS_MAX = 1000,
    ROLLED = 20, /* frames that do not fit into one segment */
    TAGS_MAX = 2
};

static struct ramdisk *disk;
static struct truth truth;
static struct user user;
static struct image image; /* of the asset that is being made */
static uint32_t counter;   /* of message ids */
static uint64_t tokens;

/* --- A store, used by hand. */

struct answer {
    bool done;
    enum q_err err;
};

static void
on_done(struct qlog_request *request, enum q_err err)
{
    *(struct answer *)request->context = (struct answer){ .done = true, .err = err };
}

static void
run(struct qlog_request *request)
{
    struct answer answer = { 0 };
    request->done = on_done;
    request->context = &answer;
    Q_ASSERT(qlog_store_submit(user.store, request) == Q_OK);
    for (unsigned i = 0; i < TURNS_MAX && !answer.done; i++) {
        Q_ASSERT(qlog_store_turn(user.store) == Q_OK);
        q_clock_manual_advance_ns(&user.clock, Q_NS_PER_MS);
        Q_ASSERT(qlog_store_wait(user.store, 0) == Q_OK);
    }
    Q_ASSERT(answer.done && answer.err == Q_OK);
}

/* One batch; `tags` are words with a blank between them, "" for none. */
static void
publish(const char *subject, const char *body, unsigned count, const char *tags, bool compress)
{
    static uint8_t envelope[64 * 1024];
    static uint8_t payload[64 * 1024];
    struct qbatch_builder_options options = { .compress = compress, .producer_id = { 1, 2, 3 } };
    struct qbatch_builder *builder;
    Q_ASSERT(qbatch_builder_new(&options, &builder) == Q_OK);
    struct q_bytes words[TAGS_MAX];
    uint32_t tag_count = 0;
    for (const char *at = tags; *at != '\0' && tag_count < TAGS_MAX;) {
        size_t size = strcspn(at, " ");
        words[tag_count++] = q_bytes_from(at, size);
        at += size + (at[size] == ' ' ? 1 : 0);
    }
    const struct qbatch_property property = { q_bytes_from_text("from"),
                                              q_bytes_from_text("golden") };
    const struct q_bytes key = q_bytes_from_text("key-7");
    for (unsigned i = 0; i < count; i++) {
        char text[512];
        (void)snprintf(text, sizeof(text), "%s %u", body, counter);
        struct qbatch_message message = {
            .body = q_bytes_from_text(text),
            .properties = &property,
            .property_count = tag_count > 0 ? 1 : 0,
            .tags = words,
            .tag_count = tag_count,
            .keys = &key,
            .key_count = i == 0 && tag_count > 0 ? 1 : 0,
            .order_key = q_bytes_from_text(tag_count > 0 ? "customer-9" : ""),
            .time_ms = user.clock.wall_ms,
            .counter = counter++,
        };
        Q_ASSERT(qbatch_builder_add(builder, &message) == Q_OK);
    }
    uint32_t envelope_size;
    uint32_t payload_size;
    Q_ASSERT(qbatch_builder_close(builder, &envelope_size, &payload_size) == Q_OK);
    Q_ASSERT(envelope_size <= sizeof(envelope) && payload_size <= sizeof(payload));
    struct qbatch_request_place place = { .request_sequence = counter, .request_count = 1 };
    qbatch_builder_write(builder, &place, envelope, payload);
    qbatch_builder_free(builder);
    struct q_bytes name = q_bytes_from_text(subject);
    uint64_t first;
    struct qlog_publish request = {
        .request = { .kind = QLOG_PUBLISH },
        .envelopes = envelope,
        .envelopes_size = envelope_size,
        .payloads = payload,
        .payloads_size = payload_size,
        .subjects = &name,
        .batch_count = 1,
        .mode = QLOG_MODE_SYNC,
        .settled = counter,
        .ret_first_sequences = &first,
    };
    Q_ASSERT(qlog_publish_check(&request) == Q_OK);
    run(&request.request);
}

static struct qlog_consumer
join(const char *group, const char *consumer, const char *tag)
{
    struct qlog_join request = {
        .request = { .kind = QLOG_JOIN },
        .who = {
            .subject = q_bytes_from_text("orders"),
            .group = q_bytes_from_text(group),
            .consumer = q_bytes_from_text(consumer),
        },
        .tags = { q_bytes_from_text(tag) },
        .tag_count = tag[0] == '\0' ? 0 : 1,
    };
    q_store_le64(request.token, ++tokens);
    run(&request.request);
    request.who.session = request.session;
    return request.who;
}

/* The first pull sequence that it got. */
static uint64_t
pull(const struct qlog_consumer *who, uint32_t count)
{
    enum {
        RUNS = 16
    };
    struct qlog_run runs[RUNS];
    struct qlog_piece pieces[RUNS];
    struct qlog_pull request = {
        .request = { .kind = QLOG_PULL },
        .who = *who,
        .messages_max = count,
        .bytes_max = 1024 * 1024,
        .runs = runs,
        .runs_max = RUNS,
        .pieces = pieces,
        .pieces_max = RUNS,
    };
    run(&request.request);
    Q_ASSERT(request.run_count > 0);
    qlog_pull_release(&request);
    return runs[0].pull_sequence;
}

static void
ack(const struct qlog_consumer *who, uint64_t first, uint64_t last)
{
    struct qlog_range range = { first, last };
    struct qlog_range expired;
    struct qlog_ack request = {
        .request = { .kind = QLOG_ACK },
        .who = *who,
        .ranges = &range,
        .range_count = 1,
        .expired = &expired,
        .expired_max = 1,
    };
    run(&request.request);
}

static void
leave(const struct qlog_consumer *who)
{
    struct qlog_session request = { .request = { .kind = QLOG_LEAVE }, .who = *who };
    run(&request.request);
}

/* --- What is done with a directory, and left. */

static void
begin(bool store)
{
    disk = ramdisk_new();
    counter = 0;
    tokens = 0;
    memset(&truth, 0, sizeof(truth));
    user_init(&user, disk, &truth, 1);
    Q_ASSERT(user_open(&user, store) == Q_OK);
}

static void
end_clean(void)
{
    Q_ASSERT(user_close(&user) == Q_OK);
    ramdisk_save(disk, &image);
    ramdisk_free(disk);
}

static void
end_killed(void)
{
    ramdisk_save(disk, &image);
    user_kill(&user);
    ramdisk_free(disk);
}

static void
on_appended(struct qlog_append *append, enum q_err err)
{
    *(struct answer *)append->context = (struct answer){ .done = true, .err = err };
}

static void
append(const char *text, unsigned count, enum qlog_mode mode)
{
    for (unsigned i = 0; i < count; i++) {
        char data[64];
        struct answer answer = { 0 };
        struct qlog_append request = {
            .data = data,
            .size = (size_t)snprintf(data, sizeof(data), "%s %u", text, i),
            .mode = mode,
            .done = on_appended,
            .context = &answer,
        };
        Q_ASSERT(qlog_submit(user.log, &request) == Q_OK);
        for (unsigned j = 0; j < TURNS_MAX && !answer.done; j++) {
            Q_ASSERT(qlog_turn(user.log) == Q_OK);
            q_clock_manual_advance_ns(&user.clock, Q_NS_PER_MS);
            Q_ASSERT(qlog_wait(user.log, 0) == Q_OK);
        }
        Q_ASSERT(answer.done && answer.err == Q_OK);
    }
}

static struct image_file *
file(const char *name)
{
    char path[RAMDISK_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", user_directory, name);
    struct image_file *found = image_find(&image, path);
    Q_ASSERT(found != NULL);
    return found;
}

/* A block again, after a change that its writer might have made. */
static void
rehash(uint8_t *block, size_t size)
{
    q_store_le64(block, ql_hash(block + 8, size - 8));
}

/* --- The assets. */

static void
make_store(void)
{
    begin(true);
    publish("orders", "order", 3, "", false);
    publish("orders", "urgent order", 2, "red blue", false);
    publish("prices \xc3\xa9", "the same words, again and again and again and again", 9, "", true);
    struct qlog_consumer all = join("all", "first", "");
    uint64_t at = pull(&all, 3);
    ack(&all, at, at + 1);
    struct qlog_consumer red = join("red", "second", "red");
    (void)pull(&red, 1);
    struct qlog_consumer third = join("all", "third", "");
    (void)pull(&third, 2);
    leave(&third);
}

static void
make_store_clean(void)
{
    make_store();
    end_clean();
}

static void
make_store_killed(void)
{
    make_store();
    end_killed();
}

static void
trim(bool messages)
{
    struct qlog_trim request = {
        .request = { .kind = QLOG_TRIM },
        .messages_before = { messages ? UINT64_MAX : 0 },
        .actions_before = { UINT64_MAX },
    };
    run(&request.request);
}

static void
consume_one_by_one(unsigned count)
{
    struct qlog_consumer worker = join("work", "worker", "");
    for (unsigned i = 0; i < count; i++) {
        publish("orders", "one more", 1, "", false);
        uint64_t at = pull(&worker, 1);
        if (i % 2 == 0) ack(&worker, at, at);
    }
}

/* The head of the action log is dropped: what groups have in hand is stated again. */
static void
make_store_stated(void)
{
    make_store();
    consume_one_by_one(ROLLED / 2);
    trim(false);
    publish("orders", "the last", 1, "", false);
    end_clean();
}

/* Both heads are dropped, more than once; segments are used again. */
static void
make_store_trimmed(void)
{
    make_store();
    for (unsigned i = 0; i < 3; i++) {
        consume_one_by_one(ROLLED);
        trim(true);
    }
    publish("orders", "the last", 1, "", false);
    end_clean();
}

/* Several segments of messages, each with its index file, keys and all. */
static void
make_store_indexed(void)
{
    make_store();
    consume_one_by_one(2 * ROLLED);
    publish("orders", "urgent order", 2, "red blue", false);
    end_clean();
}

/* The same, and somebody has removed what is derived: nothing is missing. */
static void
make_store_index_missing(void)
{
    make_store_indexed();
    for (unsigned i = image.count; i > 0; i--)
        if (strstr(image.files[i - 1].path, "/index-") != NULL)
            image_remove(&image, image.files[i - 1].path);
}

/* A group has more in hand than one append can state: CURSOR records tell how far each part goes. */
static void
make_store_parts(void)
{
    enum {
        BATCHES = 8,
        MESSAGES = 500,
        ACKED = BATCHES * MESSAGES / 2
    };
    static struct qlog_range ranges[ACKED];
    static struct qlog_range expired[ACKED];
    begin(true);
    for (unsigned i = 0; i < BATCHES; i++)
        publish("orders", "one of many", MESSAGES, "", true);
    struct qlog_ack request = {
        .request = { .kind = QLOG_ACK },
        .who = join("all", "first", ""),
        .ranges = ranges,
        .range_count = ACKED,
        .expired = expired,
        .expired_max = ACKED,
    };
    uint64_t at = pull(&request.who, BATCHES * MESSAGES);
    for (unsigned i = 0; i < ACKED; i++)
        ranges[i] = (struct qlog_range){ at + 2 * i, at + 2 * i };
    run(&request.request);
    trim(false);
    publish("orders", "the last", 1, "", false);
    end_clean();
}

static void
make_log_clean(void)
{
    begin(false);
    append("record", 5, QLOG_MODE_SYNC);
    end_clean();
}

/* One sealed segment, one active, one spare. */
static void
make_log_rolled(void)
{
    begin(false);
    append("record", ROLLED, QLOG_MODE_SYNC);
    end_clean();
}

/* The active segment was in use before: behind its end lie frames of that time. */
static void
make_log_recycled(void)
{
    begin(false);
    append("early record", 2 * ROLLED, QLOG_MODE_SYNC);
    Q_ASSERT(user_trim(&user) == Q_OK);
    append("late record", ROLLED, QLOG_MODE_SYNC);
    end_clean();
}

static void
make_log_torn(void)
{
    begin(false);
    append("flushed", 3, QLOG_MODE_SYNC);
    append("written", 3, QLOG_MODE_ASYNC);
    end_killed();
    memset(file("log/segment-000000")->data + 5 * QL_BLOCK + 100, 0, QL_BLOCK - 100);
}

/* Power loss took a frame, a recovery cut there, and what was behind it is still there. */
static void
make_log_orphan(void)
{
    begin(false);
    append("flushed", 4, QLOG_MODE_SYNC);
    append("written", 4, QLOG_MODE_ASYNC);
    ramdisk_save(disk, &image);
    user_kill(&user);
    memset(file("log/segment-000000")->data + 6 * QL_BLOCK, 0, QL_BLOCK);
    ramdisk_load(disk, &image);
    image_free(&image);
    Q_ASSERT(user_open(&user, false) == Q_OK);
    append("second life", 1, QLOG_MODE_SYNC);
    end_clean();
}

static void
make_log_rot(void)
{
    make_log_clean();
    file("log/segment-000000")->data[3 * QL_BLOCK + QL_FRAME_HEADER_SIZE + 10] ^= 0x10;
}

static void
make_store_rot_payload(void)
{
    make_store_clean();
    uint8_t *frame = file("message/segment-000000")->data + 2 * QL_BLOCK;
    uint32_t records = q_load_le32(frame + QL_FRAME_RECORDS_LENGTH);
    frame[QL_FRAME_HEADER_SIZE + records + 3] ^= 1;
}

static void
make_super_one_copy(void)
{
    make_log_clean();
    uint8_t *super = file("superblock")->data;
    uint64_t newest = 0;
    for (unsigned i = 1; i < QL_SUPER_COPIES; i++) {
        uint8_t *copy = super + (size_t)i * QL_SUPER_SIZE;
        const uint8_t *best = super + newest * QL_SUPER_SIZE;
        if (q_load_le64(copy + QL_SUPER_SEQUENCE) > q_load_le64(best + QL_SUPER_SEQUENCE))
            newest = i;
    }
    for (unsigned i = 0; i < QL_SUPER_COPIES; i++)
        if (i != newest) super[i * QL_SUPER_SIZE + 700] ^= 0x80;
}

static void
make_super_gone(void)
{
    make_log_clean();
    image_remove(&image, file("superblock")->path);
}

/* Power was lost while a spare was made. */
static void
make_spare_half_made(void)
{
    make_log_rolled();
    for (unsigned i = 0; i < image.count; i++) {
        struct image_file *spare = &image.files[i];
        bool segment = strstr(spare->path, "/segment-") != NULL;
        if (segment && spare->data[QL_SEGMENT_STATE] == 0) memset(spare->data, 0, spare->size);
    }
}

/* --- Those that must be refused, or told. */

static void
make_newer_superblock(void)
{
    make_log_clean();
    for (unsigned i = 0; i < QL_SUPER_COPIES; i++) {
        uint8_t *copy = file("superblock")->data + (size_t)i * QL_SUPER_SIZE;
        q_store_le16(copy + QL_SUPER_VERSION, QL_FORMAT_VERSION + 1);
        rehash(copy, QL_SUPER_SIZE);
    }
}

static void
make_newer_segment(void)
{
    make_log_clean();
    uint8_t *header = file("log/segment-000000")->data;
    q_store_le16(header + QL_SEGMENT_VERSION, QL_FORMAT_VERSION + 1);
    rehash(header, QL_BLOCK);
}

static void
make_newer_frame(void)
{
    make_log_clean();
    uint8_t *frame = file("log/segment-000000")->data + 2 * QL_BLOCK;
    frame[QL_FRAME_VERSION] = QL_FORMAT_VERSION + 1;
    rehash(frame, QL_FRAME_HEADER_SIZE);
}

/* A kind of record that nobody knows yet, in the last frame of a log that was killed. */
static void
make_newer_record(void)
{
    begin(true);
    publish("orders", "order", 1, "", false);
    (void)join("all", "first", "");
    end_killed();
    uint8_t *at = file("action/segment-000000")->data + QL_BLOCK;
    while (q_load_le32(at + QL_BLOCK + QL_FRAME_MAGIC_AT) == QL_FRAME_MAGIC)
        at += QL_BLOCK;
    q_store_le16(at + QL_FRAME_HEADER_SIZE + QL_RECORD_KIND, 200);
    uint32_t size = q_load_le32(at + QL_FRAME_RECORDS_LENGTH);
    q_store_le64(at + QL_FRAME_RECORDS_HASH, ql_hash(at + QL_FRAME_HEADER_SIZE, size));
    rehash(at, QL_FRAME_HEADER_SIZE);
}

static void
make_frame_checksum(void)
{
    make_log_clean();
    file("log/segment-000000")->data[2 * QL_BLOCK + QL_FRAME_WALL_MS] ^= 1;
}

static void
make_segment_missing(void)
{
    begin(false);
    append("record", 2 * ROLLED, QLOG_MODE_SYNC);
    end_clean();
    image_remove(&image, file("log/segment-000001")->path);
}

static void
make_segments_missing(void)
{
    make_log_rolled();
    for (unsigned i = image.count; i > 0; i--)
        if (strstr(image.files[i - 1].path, "/segment-") != NULL)
            image_remove(&image, image.files[i - 1].path);
}

/* Nothing is left that tells what this was. */
static void
make_all_damaged(void)
{
    make_log_clean();
    for (unsigned i = 0; i < QL_SUPER_COPIES; i++)
        file("superblock")->data[i * QL_SUPER_SIZE + QL_SUPER_MAGIC_AT] ^= 0xff;
    for (unsigned i = image.count; i > 0; i--)
        if (strstr(image.files[i - 1].path, "/segment-") != NULL)
            image_remove(&image, image.files[i - 1].path);
}

static void
make_foreign(void)
{
    make_log_clean();
    char path[RAMDISK_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/letters.txt", user_directory);
    struct image_file *letters = file("superblock");
    (void)snprintf(letters->path, sizeof(letters->path), "%s", path);
    (void)snprintf((char *)letters->data, letters->size, "Dear Sir,\n");
    image_resize(letters, strlen("Dear Sir,\n"));
    for (unsigned i = image.count; i > 0; i--)
        if (strcmp(image.files[i - 1].path, path) != 0 && !image.files[i - 1].directory)
            image_remove(&image, image.files[i - 1].path);
}

static const struct {
    const char *name;
    void (*make)(void);
} assets[] = {
    { "store-clean", make_store_clean },
    { "store-killed", make_store_killed },
    { "store-stated", make_store_stated },
    { "store-trimmed", make_store_trimmed },
    { "store-parts", make_store_parts },
    { "store-indexed", make_store_indexed },
    { "store-index-missing", make_store_index_missing },
    { "log-clean", make_log_clean },
    { "log-rolled", make_log_rolled },
    { "log-recycled", make_log_recycled },
    { "log-torn", make_log_torn },
    { "log-orphan", make_log_orphan },
    { "log-rot", make_log_rot },
    { "store-rot-payload", make_store_rot_payload },
    { "superblock-one-copy", make_super_one_copy },
    { "superblock-gone", make_super_gone },
    { "spare-half-made", make_spare_half_made },
    { "should-fail-newer-superblock", make_newer_superblock },
    { "should-fail-newer-segment", make_newer_segment },
    { "should-fail-newer-frame", make_newer_frame },
    { "should-fail-newer-record", make_newer_record },
    { "should-fail-frame-checksum", make_frame_checksum },
    { "should-fail-segment-missing", make_segment_missing },
    { "should-fail-segments-missing", make_segments_missing },
    { "should-fail-all-damaged", make_all_damaged },
    { "should-fail-foreign", make_foreign },
};

static bool
write_out(const char *out, const char *name)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", out, name);
    if (mkdir(path, 0777) != 0) return false;
    /* Directories first: an image may have them in any order. */
    for (unsigned directories = 2; directories-- > 0;) {
        for (unsigned i = 0; i < image.count; i++) {
            const struct image_file *from = &image.files[i];
            size_t root = strlen(user_directory);
            if (from->directory != (directories == 1) || strcmp(from->path, user_directory) == 0 ||
                strncmp(from->path, user_directory, root) != 0)
                continue;
            (void)snprintf(path, sizeof(path), "%s/%s%s", out, name, from->path + root);
            if (from->directory) {
                if (mkdir(path, 0777) != 0) return false;
                continue;
            }
            FILE *to = fopen(path, "wxe");
            if (to == NULL) return false;
            size_t written = fwrite(from->data, 1, from->size, to);
            if (fclose(to) != 0 || written != from->size) return false;
        }
    }
    return true;
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        (void)fprintf(stderr, "usage: golden-make OUT\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof(assets) / sizeof(assets[0]); i++) {
        assets[i].make();
        if (!write_out(argv[1], assets[i].name)) {
            (void)fprintf(stderr, "%s/%s: %s\n", argv[1], assets[i].name, strerror(errno));
            return 1;
        }
        image_free(&image);
    }
    return 0;
}
