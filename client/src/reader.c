/*
 * reader.c: read a subject without a group, one broker group after another.
 */
#include <stdlib.h>
#include <time.h>

#include "consumer.h"

enum {
    MESSAGES_DEFAULT = 512,
    READ_BYTES_MAX = 256 * 1024,
    READER_TAGS_MAX = 10,
};

/* How far a broker group has been read. */
struct part {
    struct broker *broker;
    bool has_begun; /* `next` is known */
    uint64_t next;
    bool is_unknown; /* it said that it does not have the subject */
};

struct qmq_reader {
    struct qmq_client *client;
    char subject[QPROTO_READ_SUBJECT_MAX + 1];
    enum qmq_start start;
    uint64_t start_at;
    char *tags[READER_TAGS_MAX];
    size_t tag_count;
    bool tags_all;
    uint8_t key[QBATCH_KEY_BYTES_MAX];
    size_t key_size; /* 0: any */
    uint32_t turn;   /* of `parts`, whose it is */
    uint32_t part_count;
    struct part parts[];
};

static enum q_err check_options(const struct qmq_reader_options *options);
static enum q_err fill(struct qmq_reader *reader, const struct qmq_reader_options *options);
static enum q_err read_part(
    struct qmq_reader *reader,
    struct part *part,
    uint32_t messages_max,
    struct qmq_batch **ret_batch);
static enum q_err ask(
    struct qmq_reader *reader,
    struct part *part,
    uint32_t messages_max,
    uint64_t *ret_waiting,
    struct qmq_batch **ret_batch);
static void filter(const struct qmq_reader *reader, struct qmq_batch *batch);
static bool is_wanted(const struct qmq_reader *reader, const struct qmq_message *message);
static bool has_key(const struct qmq_reader *reader, const struct qmq_message *message);
static bool has_tag(const struct qmq_message *message, const char *tag);

int
qmq_reader_new(
    struct qmq_client *client,
    const struct qmq_reader_options *options,
    struct qmq_reader **ret_reader)
{
    struct route route;
    enum q_err err = check_options(options);
    if (err == Q_OK) err = route_find(client, "", client->timeout_ms, &route);
    if (err == Q_OK) err = route_narrow(&route, options->broker_group);
    if (err != Q_OK) return err;

    struct qmq_reader *reader = calloc(1, sizeof(*reader) + route.count * sizeof(reader->parts[0]));
    if (!reader) return Q_FAIL(Q_E_NOMEM);
    reader->client = client;
    for (uint32_t index = 0; index < route.count; index++)
        reader->parts[reader->part_count++].broker = route.brokers[index];
    err = fill(reader, options);
    if (err != Q_OK) {
        qmq_reader_free(reader);
        return err;
    }
    *ret_reader = reader;
    return Q_OK;
}

static enum q_err
check_options(const struct qmq_reader_options *options)
{
    if (!options->subject) return Q_FAIL(Q_INVALID, .what = "a reader needs a subject");
    Q_TRY(qproto_check_read_subject(options->subject));
    if ((unsigned)options->start > QMQ_START_SEQUENCE)
        return Q_FAIL(Q_INVALID, .what = q_text("there is no start %u", (unsigned)options->start));
    if (options->tag_count > READER_TAGS_MAX)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text("%zu tags, at most %d fit", options->tag_count, READER_TAGS_MAX));
    if (options->key.size > QBATCH_KEY_BYTES_MAX)
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text("a key has at most %d bytes", QBATCH_KEY_BYTES_MAX));
    return Q_OK;
}

static enum q_err
fill(struct qmq_reader *reader, const struct qmq_reader_options *options)
{
    memcpy(reader->subject, options->subject, strlen(options->subject));
    reader->start = options->start ? options->start : QMQ_START_EARLIEST;
    reader->start_at = options->start_at;
    reader->tags_all = options->tags_all;
    if (options->key.size > 0) memcpy(reader->key, options->key.data, options->key.size);
    reader->key_size = options->key.size;
    for (size_t index = 0; index < options->tag_count; index++) {
        reader->tags[index] = strdup(options->tags[index]);
        if (!reader->tags[index]) return Q_FAIL(Q_E_NOMEM);
        reader->tag_count++;
    }
    return Q_OK;
}

void
qmq_reader_free(struct qmq_reader *reader)
{
    if (!reader) return;
    for (size_t index = 0; index < reader->tag_count; index++)
        free(reader->tags[index]);
    free(reader);
}

int
qmq_read(struct qmq_reader *reader, uint32_t messages_max, struct qmq_batch **ret_batch)
{
    if (messages_max == 0) messages_max = MESSAGES_DEFAULT;
    uint32_t unknown = 0;
    for (uint32_t step = 0; step < reader->part_count; step++) {
        struct part *part = &reader->parts[(reader->turn + step) % reader->part_count];
        enum q_err err = read_part(reader, part, messages_max, ret_batch);
        part->is_unknown = err == Q_NOT_FOUND;
        unknown += part->is_unknown;
        if (err == Q_AGAIN || err == Q_NOT_FOUND) continue;
        reader->turn = (reader->turn + step + 1) % reader->part_count;
        return err;
    }
    return unknown == reader->part_count ? (int)Q_NOT_FOUND : (int)Q_FAIL(Q_AGAIN);
}

/* Past whatever its tags and key leave out. */
static enum q_err
read_part(
    struct qmq_reader *reader,
    struct part *part,
    uint32_t messages_max,
    struct qmq_batch **ret_batch)
{
    for (;;) {
        uint64_t waiting;
        struct qmq_batch *batch;
        uint64_t before = part->has_begun ? part->next : UINT64_MAX;
        Q_TRY(ask(reader, part, messages_max, &waiting, &batch));
        if (batch) filter(reader, batch);
        if (batch && batch->message_count > 0) {
            *ret_batch = batch;
            return Q_OK;
        }
        bool is_further = batch != NULL || part->next != before;
        qmq_batch_free(batch);
        if (waiting == 0) return Q_AGAIN;
        if (is_further) continue;
        /* The broker has to read it from the disk first. */
        const struct timespec moment = { .tv_nsec = Q_NS_PER_MS };
        (void)nanosleep(&moment, NULL);
    }
}

static enum q_err
ask(struct qmq_reader *reader,
    struct part *part,
    uint32_t messages_max,
    uint64_t *ret_waiting,
    struct qmq_batch **ret_batch)
{
    Qmq__Wire__PeekRequest peek = QMQ__WIRE__PEEK_REQUEST__INIT;
    peek.subject = reader->subject;
    peek.messages_max = messages_max;
    peek.bytes_max = READ_BYTES_MAX;
    peek.start = start_number(part->has_begun ? QMQ_START_SEQUENCE : reader->start);
    peek.start_at = part->has_begun ? part->next : reader->start_at;
    peek.key.data = reader->key;
    peek.key.len = reader->key_size;

    struct answer answer;
    Q_TRY(broker_call(part->broker, QPROTO_PEEK, &peek.base, reader->client->timeout_ms, &answer));
    const Qmq__Wire__PullAnswer *page = (const Qmq__Wire__PullAnswer *)answer.header;
    uint64_t next = page->next;
    *ret_waiting = page->waiting;
    uint64_t received = 0;
    enum q_err err = received_open(&answer, part->broker->number, &received, ret_batch);
    answer_close(&answer);
    if (err != Q_OK) return err;
    part->has_begun = true;
    part->next = next;
    return Q_OK;
}

/* The broker sends whole batches anyway: what is not wanted is left out here. */
static void
filter(const struct qmq_reader *reader, struct qmq_batch *batch)
{
    if (reader->tag_count == 0 && reader->key_size == 0) return;
    uint32_t kept = 0;
    for (uint32_t index = 0; index < batch->message_count; index++)
        if (is_wanted(reader, &batch->messages[index]))
            batch->messages[kept++] = batch->messages[index];
    batch->message_count = kept;
}

static bool
is_wanted(const struct qmq_reader *reader, const struct qmq_message *message)
{
    if (reader->key_size > 0 && !has_key(reader, message)) return false;
    if (reader->tag_count == 0) return true;
    size_t found = 0;
    for (size_t index = 0; index < reader->tag_count; index++)
        found += has_tag(message, reader->tags[index]);
    return reader->tags_all ? found == reader->tag_count : found > 0;
}

static bool
has_key(const struct qmq_reader *reader, const struct qmq_message *message)
{
    struct q_bytes at = q_bytes_from(message->properties_.data, message->properties_.size);
    struct q_bytes wanted = q_bytes_from(reader->key, reader->key_size);
    struct q_bytes name;
    struct q_bytes value;
    while (qbatch_property_next(&at, &name, &value) == Q_OK)
        if (q_bytes_equal(name, q_bytes_from_text(QBATCH_PROPERTY_KEY)) &&
            q_bytes_equal(value, wanted))
            return true;
    return false;
}

static bool
has_tag(const struct qmq_message *message, const char *tag)
{
    struct qmq_bytes found;
    for (size_t index = 0; qmq_message_tag(message, index, &found); index++)
        if (found.size == strlen(tag) && memcmp(found.data, tag, found.size) == 0) return true;
    return false;
}

const char *
qmq_source_name(struct qmq_client *client, uint32_t source)
{
    const char *name = "";
    if (!client_is_here(client)) return name;
    pthread_mutex_lock(&client->lock);
    q_list_for_each(node, &client->brokers) {
        const struct broker *broker = q_container_of(node, struct broker, node);
        if (broker->number == source) name = broker->group;
    }
    pthread_mutex_unlock(&client->lock);
    return name;
}
