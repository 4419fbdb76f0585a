#include "user.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <qbase/assert.h>
#include <qbatch/batch.h>
#include <qbatch/build.h>

#include "segment/home.h"
#include "store/store.h"

enum {
    TURNS_MAX = 1000, /* more is a hang */
    BATCH_MESSAGES_MAX = 5,
    RUNS_MAX = 64
};

const char user_directory[] = "/d";

/* A request's answer. */
struct answer {
    bool done;
    enum q_err err;
};

static enum q_err user_run(struct user *user, struct qlog_request *request);
static enum q_err user_pull(struct user *user, struct qlog_pull *pull);
static void take_run(
    struct user *user,
    unsigned subject,
    const struct qlog_pull *pull,
    const struct qlog_run *run,
    struct delivered *delivered);

/* --- Contents. */

void
content_of(uint64_t key, uint8_t *out, uint32_t *ret_size)
{
    struct random_source random = { .state = key };
    uint32_t size = 16 + random_below(&random, 180);
    if (random_below(&random, 12) == 0) size += random_below(&random, 12 * 1024);
    bool plain = random_below(&random, 2) == 0;
    q_store_le64(out, key);
    for (uint32_t i = 8; i < size; i++) {
        /* Some that LZ4 makes smaller. */
        out[i] = plain ? (uint8_t)("zero one two "[i % 13]) : (uint8_t)random_u64(&random);
    }
    *ret_size = size;
}

uint64_t
content_key(struct q_bytes bytes)
{
    static uint8_t expected[CONTENT_MAX];
    if (bytes.size < 16) return 0;
    uint64_t key = q_load_le64(bytes.data);
    uint32_t size;
    content_of(key, expected, &size);
    return bytes.size == size && memcmp(bytes.data, expected, size) == 0 ? key : 0;
}

/* --- Open and close. */

/* What the kernel gives to a new directory. In the place of libc's, so that a seed tells all. */
static struct random_source kernel_random;

ssize_t
getrandom(void *out, size_t size, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)out)[i] = (uint8_t)random_u64(&kernel_random);
    return (ssize_t)size;
}

static void
user_on_event(void *context, const struct qlog_event *event)
{
    struct user *user = context;
    if (user->told_count == TOLD_MAX) return;
    struct told *told = &user->told[user->told_count++];
    told->kind = event->kind;
    told->position = event->position;
    told->bytes = event->bytes;
    (void)snprintf(told->log, sizeof(told->log), "%s", event->log == NULL ? "" : event->log);
    (void)snprintf(told->path, sizeof(told->path), "%s", event->path == NULL ? "" : event->path);
    (void)snprintf(told->text, sizeof(told->text), "%s", event->text);
}

void
user_init(struct user *user, struct ramdisk *disk, struct truth *truth, uint64_t seed)
{
    memset(user, 0, sizeof(*user));
    user->disk = disk;
    user->truth = truth;
    user->random.state = seed;
    kernel_random.state = ~seed;
    q_clock_manual_init(&user->clock);
    user->clock.monotonic_ns = Q_NS_PER_S;
    user->clock.wall_ms = 1700000000000;
    user->observer = (struct qlog_observer){ .context = user, .on_event = user_on_event };
}

enum q_err
user_open(struct user *user, bool store)
{
    struct qlog_options options = {
        .io = ramdisk_io(user->disk),
        .clock = &user->clock.clock,
        .observer = &user->observer,
        .segment_bytes = SEGMENT_BYTES,
        .frame_bytes_max = 16 * 1024,
        .create = true,
    };
    user->told_count = 0;
    if (!store) return qlog_open(user_directory, &options, &user->log);
    struct qlog_store_options store_options = { .log = options };
    return qlog_store_open(user_directory, &store_options, &user->store);
}

enum q_err
user_close(struct user *user)
{
    enum q_err err = user->store != NULL ? qlog_store_close(user->store) : qlog_close(user->log);
    user->store = NULL;
    user->log = NULL;
    return err;
}

/* The home of a log that is used through the public interface: its struct begins with it. */
static struct ql_home *
user_home(const struct user *user)
{
    if (user->store != NULL) return user->store->home;
    struct ql_home *home;
    memcpy(&home, user->log, sizeof(struct ql_home *));
    return home;
}

void
user_kill(struct user *user)
{
    /* A latched failure keeps the close from flushing or marking anything. */
    user_home(user)->env.broken = Q_E_BROKEN;
    (void)user_close(user);
}

/* --- Calls. */

static void
user_on_done(struct qlog_request *request, enum q_err err)
{
    struct answer *answer = request->context;
    Q_ASSERT(!answer->done);
    answer->done = true;
    answer->err = err;
}

static enum q_err
user_run(struct user *user, struct qlog_request *request)
{
    struct answer answer = { 0 };
    request->done = user_on_done;
    request->context = &answer;
    Q_TRY(qlog_store_submit(user->store, request));
    for (unsigned i = 0; i < TURNS_MAX && !answer.done; i++) {
        Q_TRY(qlog_store_turn(user->store));
        q_clock_manual_advance_ns(&user->clock, Q_NS_PER_MS / 10);
        Q_TRY(qlog_store_wait(user->store, Q_NS_PER_MS));
    }
    return answer.done ? answer.err : Q_FAIL(Q_E_IO, .what = "a request is never answered");
}

struct q_bytes
user_subject(unsigned subject)
{
    static const char *const names[SUBJECTS] = { "orders", "prices", "a subject with a long name" };
    return q_bytes_from_text(names[subject]);
}

enum q_err
user_publish(struct user *user, unsigned subject, enum qlog_mode mode)
{
    static uint8_t body[CONTENT_MAX];
    struct truth *truth = user->truth;
    uint64_t keys[BATCH_MESSAGES_MAX];
    uint32_t count = 1 + random_below(&user->random, BATCH_MESSAGES_MAX);
    struct qbatch_builder_options options = {
        .compress = random_below(&user->random, 2) == 0,
        .bytes_max = 1024 * 1024,
    };
    struct qbatch_builder *builder;
    Q_TRY(qbatch_builder_new(&options, &builder));
    enum q_err err = Q_OK;
    for (uint32_t i = 0; i < count && err == Q_OK; i++) {
        uint32_t size;
        keys[i] = ++truth->last_key;
        content_of(keys[i], body, &size);
        struct qbatch_message message = {
            .body = q_bytes_from(body, size),
            .time_ms = user->clock.wall_ms,
            .counter = (uint32_t)keys[i],
        };
        err = qbatch_builder_add(builder, &message);
    }
    uint32_t envelope_size = 0;
    uint32_t payload_size = 0;
    if (err == Q_OK) err = qbatch_builder_close(builder, &envelope_size, &payload_size);
    if (err != Q_OK) {
        qbatch_builder_free(builder);
        return err;
    }
    uint8_t *envelope = malloc(envelope_size);
    uint8_t *payload = malloc(payload_size + 1);
    struct qbatch_request_place place = { .request_count = 1 };
    qbatch_builder_write(builder, &place, envelope, payload);
    qbatch_builder_free(builder);

    struct q_bytes name = user_subject(subject);
    uint64_t first = 0;
    struct qlog_publish publish = {
        .request = { .kind = QLOG_PUBLISH },
        .envelopes = envelope,
        .envelopes_size = envelope_size,
        .payloads = payload,
        .payloads_size = payload_size,
        .subjects = &name,
        .batch_count = 1,
        .mode = mode,
        .ret_first_sequences = &first,
    };
    err = qlog_publish_check(&publish);
    if (err == Q_OK) err = user_run(user, &publish.request);
    free(envelope);
    free(payload);
    if (err != Q_OK) return err;
    Q_ASSERT(first + count <= SEQUENCES_MAX);
    for (uint32_t i = 0; i < count; i++)
        truth->keys[subject][first + i] = keys[i];
    if (truth->ends[subject] < first + count) truth->ends[subject] = (uint32_t)(first + count);
    return Q_OK;
}

static void
user_on_appended(struct qlog_append *append, enum q_err err)
{
    struct answer *answer = append->context;
    answer->done = true;
    answer->err = err;
}

enum q_err
user_append(struct user *user, enum qlog_mode mode)
{
    static uint8_t data[CONTENT_MAX];
    struct truth *truth = user->truth;
    uint32_t size;
    uint64_t key = ++truth->last_key;
    content_of(key, data, &size);
    struct answer answer = { 0 };
    struct qlog_append append = {
        .data = data,
        .size = size,
        .mode = mode,
        .done = user_on_appended,
        .context = &answer,
    };
    Q_TRY(qlog_submit(user->log, &append));
    for (unsigned i = 0; i < TURNS_MAX && !answer.done; i++) {
        Q_TRY(qlog_turn(user->log));
        q_clock_manual_advance_ns(&user->clock, Q_NS_PER_MS / 10);
        Q_TRY(qlog_wait(user->log, Q_NS_PER_MS));
    }
    if (!answer.done) return Q_FAIL(Q_E_IO, .what = "an append is never answered");
    if (answer.err != Q_OK) return answer.err;
    Q_ASSERT(truth->record_count < RECORDS_MAX);
    truth->records[truth->record_count++] = key;
    return Q_OK;
}

enum q_err
user_sleep(struct user *user, uint64_t ms)
{
    q_clock_manual_advance_ns(&user->clock, ms * Q_NS_PER_MS);
    for (unsigned i = 0; i < 4; i++) {
        if (user->store != NULL) {
            Q_TRY(qlog_store_turn(user->store));
            Q_TRY(qlog_store_wait(user->store, Q_NS_PER_MS));
        } else {
            Q_TRY(qlog_turn(user->log));
            Q_TRY(qlog_wait(user->log, Q_NS_PER_MS));
        }
    }
    return Q_OK;
}

enum q_err
user_trim(struct user *user)
{
    if (user->log != NULL) return qlog_trim(user->log, (qlog_position){ UINT64_MAX });
    struct qlog_trim trim = {
        .request = { .kind = QLOG_TRIM },
        .messages_before = { UINT64_MAX },
        .actions_before = { UINT64_MAX },
    };
    return user_run(user, &trim.request);
}

/* --- Consumers. */

static enum q_err
user_join(struct user *user, unsigned subject, const char *group, struct qlog_consumer *ret_who)
{
    *ret_who = (struct qlog_consumer){
        .subject = user_subject(subject),
        .group = q_bytes_from_text(group),
        .consumer = q_bytes_from_text("c"),
    };
    struct qlog_join join = { .request = { .kind = QLOG_JOIN }, .who = *ret_who };
    q_store_le64(join.token, random_u64(&user->random));
    Q_TRY(user_run(user, &join.request));
    ret_who->session = join.session;
    return Q_OK;
}

static enum q_err
user_pull(struct user *user, struct qlog_pull *pull)
{
    static struct qlog_run runs[RUNS_MAX];
    static struct qlog_piece pieces[RUNS_MAX];
    pull->request.kind = QLOG_PULL;
    pull->runs = runs;
    pull->runs_max = RUNS_MAX;
    pull->pieces = pieces;
    pull->pieces_max = RUNS_MAX;
    pull->bytes_max = 1024 * 1024;
    return user_run(user, &pull->request);
}

static enum q_err
user_ack(struct user *user, const struct qlog_consumer *who, const struct qlog_range *range)
{
    struct qlog_range expired[RUNS_MAX];
    struct qlog_ack ack = {
        .request = { .kind = QLOG_ACK },
        .who = *who,
        .ranges = range,
        .range_count = 1,
        .expired = expired,
        .expired_max = RUNS_MAX,
    };
    return user_run(user, &ack.request);
}

enum q_err
user_consume(struct user *user, unsigned subject, const char *group)
{
    struct qlog_consumer who;
    Q_TRY(user_join(user, subject, group, &who));
    struct qlog_pull pull = { .who = who, .messages_max = 1 + random_below(&user->random, 20) };
    Q_TRY(user_pull(user, &pull));
    qlog_pull_release(&pull);
    if (pull.run_count == 0) return Q_OK;
    const struct qlog_run *run = &pull.runs[random_below(&user->random, pull.run_count)];
    struct qlog_range range = { .first = run->pull_sequence };
    range.last = range.first + random_below(&user->random, run->count);
    return user_ack(user, &who, &range);
}

enum q_err
user_read_all(struct user *user, const char *group, struct delivered *ret_delivered)
{
    memset(ret_delivered, 0, sizeof(*ret_delivered));
    for (unsigned subject = 0; subject < SUBJECTS; subject++) {
        struct qlog_consumer who;
        Q_TRY(user_join(user, subject, group, &who));
        for (unsigned i = 0; i < SEQUENCES_MAX; i++) {
            struct qlog_pull pull = { .who = who, .messages_max = 200 };
            Q_TRY(user_pull(user, &pull));
            for (uint32_t j = 0; j < pull.run_count; j++)
                take_run(user, subject, &pull, &pull.runs[j], ret_delivered);
            qlog_pull_release(&pull);
            if (pull.run_count == 0) break;
            for (uint32_t j = 0; j < pull.run_count; j++) {
                struct qlog_range range = { .first = pull.runs[j].pull_sequence };
                range.last = range.first + pull.runs[j].count - 1;
                Q_TRY(user_ack(user, &who, &range));
            }
        }
    }
    return Q_OK;
}

static void
take_message(
    struct user *user,
    unsigned subject,
    uint64_t sequence,
    enum got got,
    struct q_bytes body,
    struct delivered *delivered)
{
    const struct truth *truth = user->truth;
    bool known = sequence < truth->ends[subject];
    if (got == GOT_RIGHT && (!known || content_key(body) != truth->keys[subject][sequence]))
        got = GOT_WRONG;
    if (known && delivered->messages[subject][sequence] != GOT_NOTHING) got = GOT_WRONG;
    if (got == GOT_WRONG) delivered->wrong++;
    if (known) delivered->messages[subject][sequence] = (uint8_t)got;
}

/* The messages of a run, each found in the piece that holds it. */
static void
take_run(
    struct user *user,
    unsigned subject,
    const struct qlog_pull *pull,
    const struct qlog_run *run,
    struct delivered *delivered)
{
    static uint8_t scratch[1024 * 1024];
    uint64_t next = run->sequence;
    uint64_t end = run->sequence + run->count;
    for (uint32_t i = 0; i < pull->piece_count && next < end; i++) {
        const struct qlog_piece *piece = &pull->pieces[i];
        struct qbatch batch;
        if (qbatch_open(q_bytes_from(piece->envelope, piece->envelope_size), &batch) != Q_OK)
            continue;
        uint64_t batch_end = batch.first_sequence + batch.message_count;
        if (next < batch.first_sequence || next >= batch_end) continue;
        bool whole = qbatch_check_payload(&batch, piece->payload) == Q_OK;
        struct q_bytes content = { 0 };
        if (whole) whole = qbatch_content(&batch, piece->payload, scratch, &content) == Q_OK;
        if (!whole) {
            for (; next < batch_end && next < end; next++)
                take_message(user, subject, next, GOT_REFUSED, content, delivered);
            continue;
        }
        struct qbatch_walk walk;
        struct qbatch_view view;
        qbatch_walk_start(&walk, &batch, content);
        while (qbatch_walk_next(&walk, true, &view) == Q_OK) {
            if (batch.first_sequence + view.index != next || next == end) continue;
            take_message(user, subject, next++, GOT_RIGHT, view.body, delivered);
        }
    }
    /* In no piece, or in one that can't be read. */
    delivered->wrong += end - next;
}
