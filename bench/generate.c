/*
 * generate: a synthetic store of any size, to measure starts and look-ups with.
 *
 *     generate --bytes N [--subjects N] DIR
 *
 * Headers, records, hashes, index files and superblock are what a store writes; payloads are zeros,
 * and holes in sparse files: 100 GB take a few hundred MB. So reading messages from it says nothing
 * about a disk. Each batch is the same four messages, of which only subject and sequence differ.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qbase/opts.h>
#include <qbatch/build.h>

#include "fill.h"
#include "format/record.h"
#include "log/index_build.h"
#include "store/store.h"

enum {
    BODY = 64 * 1024 - 4, /* with its head of 4 bytes 64 KiB */
    BODIES = 4,
    BATCHES = 4, /* of a frame */
    FRAME_MAX = 2 * 1024 * 1024,
};
#define SEGMENT_BYTES        (256ull << 20)
#define ACTION_SEGMENT_BYTES (64ull << 20)

struct generator {
    const char *directory;
    uint32_t subject_count;
    uint64_t *next; /* sequences */
    uint64_t *named;
    struct ql_super super;
    uint8_t *envelope;
    uint32_t envelope_size;
    uint8_t *payload;
    uint32_t payload_size;
    uint64_t wall_ms;
    uint32_t next_subject;
    uint8_t *frame;
    int file; /* of the segment that is written */
    struct ql_segment_header segment;
    uint64_t tail;
    uint64_t chain;
    uint64_t written; /* messages' bytes */
};

static void
must(bool good, const char *what)
{
    if (good) return;
    perror(what);
    exit(1);
}

static void
write_at(int file, const void *data, size_t size, uint64_t at)
{
    must(pwrite(file, data, size, (off_t)at) == (ssize_t)size, "write");
}

static int
create(const struct generator *generator, const char *name)
{
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/%s", generator->directory, name);
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    must(file >= 0, path);
    return file;
}

static void
begin_segment(struct generator *generator, unsigned log, uint32_t number, uint64_t size)
{
    char name[64];
    struct ql_super_log *marks = &generator->super.logs[log];
    (void)snprintf(name, sizeof(name), "%s/segment-%06u", marks->name, number);
    generator->file = create(generator, name);
    must(ftruncate(generator->file, (off_t)size) == 0, "size");
    generator->segment = (struct ql_segment_header){
        .in_use = true,
        .incarnation = ++marks->incarnation,
        .base = generator->tail,
        .file_size = size,
        .created_ms = generator->wall_ms,
        .chain = generator->chain,
    };
    memcpy(generator->segment.store_id, generator->super.store_id, 16);
    memcpy(generator->segment.log_name, marks->name, QL_LOG_NAME_MAX);
    uint8_t block[QL_BLOCK];
    ql_segment_header_encode(&generator->segment, block);
    write_at(generator->file, block, sizeof(block), 0);
}

/* The frame whose records stand behind the header's place; its payloads are holes. */
static void
write_frame(
    struct generator *generator,
    enum ql_frame_kind kind,
    uint32_t records,
    uint32_t record_count,
    uint32_t payloads)
{
    struct ql_frame frame = {
        .kind = kind,
        .last = kind == QL_FRAME_SEAL,
        .position = generator->tail,
        .incarnation = generator->segment.incarnation,
        .body_length = records + payloads,
        .records_length = records,
        .record_count = record_count,
        .wall_ms = generator->wall_ms,
        .durable = generator->tail,
        .previous = generator->chain,
        .records_hash = ql_hash(generator->frame + QL_FRAME_HEADER_SIZE, records),
    };
    ql_frame_encode(&frame, generator->frame);
    write_at(
        generator->file, generator->frame, QL_FRAME_HEADER_SIZE + records,
        QL_BLOCK + (generator->tail - generator->segment.base));
    generator->chain = frame.hash;
    generator->tail += ql_frame_size(frame.body_length);
}

/* One frame of batches of as many subjects, noted in `entries`. */
static void
write_batches(struct generator *generator, struct ql_entries *entries)
{
    uint8_t *at = generator->frame + QL_FRAME_HEADER_SIZE;
    struct ql_entry added[BATCHES];
    uint32_t subjects[BATCHES];
    uint32_t records = 0;
    generator->wall_ms += 3;
    for (uint32_t i = 0; i < BATCHES; i++) {
        uint32_t subject = generator->next_subject++ % generator->subject_count;
        if (generator->named[subject] != generator->segment.incarnation) {
            char name[FILL_NAME];
            struct ql_subject_record record = {
                .subject_id = subject,
                .next_sequence = generator->next[subject],
                .name = fill_subject(subject, name),
            };
            ql_subject_record_encode(&record, at);
            at += ql_subject_record_size(&record);
            generator->named[subject] = generator->segment.incarnation;
            records++;
        }
        memcpy(at, generator->envelope, generator->envelope_size);
        qbatch_set_prefix(at, subject, generator->next[subject], generator->wall_ms);
        subjects[i] = subject;
        added[i] = (struct ql_entry){
            .first_sequence = generator->next[subject],
            .frame = generator->tail,
            .envelope_at = (uint32_t)(at - generator->frame),
            .envelope_size = generator->envelope_size,
            .payload_size = generator->payload_size,
            .count = BODIES,
        };
        generator->next[subject] += BODIES;
        at += generator->envelope_size;
        records++;
    }
    uint32_t records_size = (uint32_t)(at - generator->frame) - QL_FRAME_HEADER_SIZE;
    uint32_t payloads = generator->payload_size * BATCHES;
    for (uint32_t i = 0; i < BATCHES; i++) {
        added[i].payload_at = QL_FRAME_HEADER_SIZE + records_size + i * generator->payload_size;
        added[i].frame_size = (uint32_t)ql_frame_size(records_size + payloads);
        must(ql_entries_reserve(entries, 1) == Q_OK, "memory");
        (void)ql_entries_add(entries, 0, subjects[i], &added[i], generator->wall_ms);
    }
    write_frame(generator, QL_FRAME_DATA, records_size, records, payloads);
    generator->written += (uint64_t)BATCHES * BODIES * BODY;
}

static void
write_index(struct generator *generator, struct ql_entries *entries, uint32_t number)
{
    struct ql_index_build build = {
        .header = {
            .sealed = true,
            .incarnation = generator->segment.incarnation,
            .base = generator->segment.base,
            .end = generator->tail,
            .chain = generator->chain,
            .wall_ms = generator->wall_ms,
            .created_ms = generator->wall_ms,
        },
        .chunks = entries->chunks,
        .from = entries->floor,
        .to = entries->end,
    };
    memcpy(build.header.store_id, generator->super.store_id, 16);
    memcpy(build.header.log_name, "message", sizeof("message"));
    ql_index_build(&build);
    must(build.err == Q_OK, "index");
    char name[64];
    (void)snprintf(name, sizeof(name), "message/index-%06u", number);
    int file = create(generator, name);
    write_at(file, build.file, build.file_size, 0);
    (void)close(file);
    free(build.file);
}

static void
write_messages(struct generator *generator, uint64_t bytes)
{
    uint64_t room = (uint64_t)FRAME_MAX + 2 * QL_BLOCK;
    for (uint32_t number = 0; generator->written < bytes; number++) {
        struct ql_entries entries;
        ql_entries_init(&entries);
        begin_segment(generator, 0, number, SEGMENT_BYTES);
        uint64_t limit = generator->segment.base + SEGMENT_BYTES - QL_BLOCK;
        while (limit - generator->tail >= room && generator->written < bytes)
            write_batches(generator, &entries);
        bool sealed = generator->written < bytes;
        if (sealed) {
            write_frame(generator, QL_FRAME_SEAL, 0, 0, 0);
            write_index(generator, &entries, number);
        }
        (void)close(generator->file);
        ql_entries_fini(&entries);
    }
    generator->super.logs[0].durable = generator->tail;
    generator->super.logs[0].replay = generator->segment.base;
    /* Requests have no numbers: a start has nothing to know of producers below. */
    generator->super.producers = generator->segment.base;
}

/* Each subject, with all its messages: what the end of a round of statements is. */
static void
write_actions(struct generator *generator)
{
    generator->tail = 0;
    generator->chain = 0;
    begin_segment(generator, 1, 0, ACTION_SEGMENT_BYTES * 2);
    uint32_t subject = 0;
    while (subject < generator->subject_count) {
        uint8_t *at = generator->frame + QL_FRAME_HEADER_SIZE;
        uint32_t count = 0;
        while (subject < generator->subject_count && at - generator->frame < FRAME_MAX / 2) {
            char name[FILL_NAME];
            struct ql_subject_record record = {
                .subject_id = subject,
                .next_sequence = generator->next[subject],
                .name = fill_subject(subject, name),
            };
            ql_subject_record_encode(&record, at);
            at += ql_subject_record_size(&record);
            subject++;
            count++;
        }
        uint32_t size = (uint32_t)(at - generator->frame) - QL_FRAME_HEADER_SIZE;
        write_frame(generator, QL_FRAME_DATA, size, count, 0);
    }
    (void)close(generator->file);
    generator->super.logs[1].durable = generator->tail;
}

static void
make_batch(struct generator *generator)
{
    struct qbatch_builder_options options = { .messages_max = BODIES, .bytes_max = 4 << 20 };
    struct qbatch_builder *builder;
    uint8_t *body = calloc(1, BODY);
    must(body != NULL && qbatch_builder_new(&options, &builder) == Q_OK, "memory");
    for (uint32_t i = 0; i < BODIES; i++) {
        struct qbatch_message message = {
            .body = q_bytes_from(body, BODY),
            .time_ms = generator->wall_ms,
            .counter = i,
        };
        must(qbatch_builder_add(builder, &message) == Q_OK, "batch");
    }
    enum q_err err =
        qbatch_builder_close(builder, &generator->envelope_size, &generator->payload_size);
    must(err == Q_OK, "batch");
    generator->envelope = malloc(generator->envelope_size);
    generator->payload = malloc(generator->payload_size);
    must(generator->envelope != NULL && generator->payload != NULL, "memory");
    struct qbatch_request_place place = { .request_count = 1 };
    qbatch_builder_write(builder, &place, generator->envelope, generator->payload);
    must(q_is_zero(generator->payload, generator->payload_size), "a payload is zeros");
    qbatch_builder_free(builder);
    free(body);
}

static void
make_directory(const char *directory, const char *name)
{
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s%s", directory, name);
    must(mkdir(path, 0700) == 0, path);
}

int
main(int argc, char **argv)
{
    uint64_t bytes = 1ull << 30;
    uint64_t subjects = 10 * 1000;
    const struct q_opt options[] = {
        { "bytes", 0, Q_OPT_SIZE, &bytes, "N", "of messages", 1, 0 },
        { "subjects", 0, Q_OPT_NUMBER, &subjects, "N", "how many", 1, 1000 * 1000 },
    };
    struct q_opts_result result;
    enum q_err err =
        q_opts_parse(options, sizeof(options) / sizeof(options[0]), argc, argv, &result);
    if (err != Q_OK || result.help || result.arg_count != 1) {
        (void)fprintf(stderr, "%s\ngenerate --bytes N DIR\n", result.error);
        q_opts_print_help(stderr, options, sizeof(options) / sizeof(options[0]));
        return result.help ? 0 : 2;
    }
    struct generator generator = {
        .directory = result.args[0],
        .subject_count = (uint32_t)subjects,
        .next = calloc(subjects, sizeof(uint64_t)),
        .named = calloc(subjects, sizeof(uint64_t)),
        .wall_ms = 1700000000000,
        .super = {
            .log_count = 2,
            .sequence = 1,
            .created_ms = 1700000000000,
            .logs = { { .name = "message" }, { .name = "action" } },
        },
    };
    generator.frame = calloc(1, FRAME_MAX);
    must(generator.next != NULL && generator.named != NULL && generator.frame != NULL, "memory");
    must(getrandom(generator.super.store_id, 16, 0) == 16, "random bytes");
    make_batch(&generator);
    make_directory(generator.directory, "");
    make_directory(generator.directory, "/message");
    make_directory(generator.directory, "/action");
    write_messages(&generator, bytes);
    write_actions(&generator);
    uint8_t block[QL_SUPER_SIZE];
    ql_super_encode(&generator.super, block);
    int file = create(&generator, "superblock");
    must(ftruncate(file, (off_t)QL_SUPER_COPIES * QL_SUPER_SIZE) == 0, "superblock");
    write_at(file, block, sizeof(block), QL_SUPER_SIZE);
    (void)close(file);
    (void)printf(
        "synthetic  %s: %" PRIu64 " bytes of messages, payloads are zeros and holes; %" PRIu64
        " subjects\n",
        generator.directory, generator.written, subjects);
    free(generator.next);
    free(generator.named);
    free(generator.frame);
    free(generator.envelope);
    free(generator.payload);
    return 0;
}
