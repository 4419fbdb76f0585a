/*
 * fake_node.c: see fake_node.h.
 */
#include "fake_node.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include <qbatch/build.h>

enum {
    STORED_MAX = 16384,
    HELD_MAX = 64,
    URL_MAX = 128,
    MESSAGES_MAX = 1 << 20,
    KNOWN_MAX = 16384
};

struct stored {
    uint8_t *envelope;
    uint32_t envelope_size;
    uint8_t *payload;
    uint32_t payload_size;
    uint64_t first;
    uint32_t count;
};

/* A request that is stored. */
struct known {
    uint8_t producer[16];
    uint64_t sequence;
    uint64_t firsts[64]; /* of its batches */
};

struct held {
    struct qnet_call *call;
    uint64_t until_ms; /* 0: until released */
};

struct fake_node {
    char name[64];
    char url[URL_MAX];
    struct qnet_server *server;
    pthread_t thread;

    pthread_mutex_t lock;
    bool is_ending;
    bool loses_answer; /* of the next publish */
    bool must_die;
    unsigned away_ms; /* then */
    bool is_holding;
    bool does_damage;
    bool is_listed;
    bool is_other_first;
    const struct fake_node *others[4];
    uint32_t other_count;
    const char *homes[8]; /* of order keys; none: its own */
    uint32_t home_count;
    unsigned refuse_op;
    enum q_err refuse_err;
    unsigned refuse_times;
    enum q_err refuse_many; /* Q_OK: not */

    struct stored stored[STORED_MAX];
    uint32_t stored_count;
    uint64_t messages;
    uint64_t cursor; /* handed out below */
    uint8_t *acked;
    uint64_t acked_count;
    uint64_t nacked_count;
    uint64_t session;
    uint64_t joins;
    uint64_t publishes;
    bool has_left;
    uint64_t route_version;
    struct known known[KNOWN_MAX];
    uint32_t known_count;
    bool has_forgotten; /* what was known before */
    bool has_mislaid;   /* what it knows */

    struct held parked[HELD_MAX];  /* pulls and route watches */
    struct held waiting[HELD_MAX]; /* publishes held back */
};

typedef void handler(struct fake_node *fake, struct qnet_call *call, struct q_bytes header);

static void on_call(void *context, struct qnet_call *call);
static void on_gone(void *context, uint64_t connection);
static void *run(void *context);
static void handle(struct fake_node *fake, struct qnet_call *call);
static void hold(struct held *list, struct qnet_call *call, uint64_t until_ms);
static unsigned how_long(struct fake_node *fake);
static bool is_ended(struct fake_node *fake);
static void answer(struct qnet_call *call, const ProtobufCMessage *header);
static void answer_error(struct qnet_call *call, unsigned op, enum q_err err);
static unsigned op_of(const struct qnet_call *call);
static void publish(struct fake_node *fake, struct qnet_call *call);
static void let_through(struct fake_node *fake);
static enum q_err judge(
    const struct fake_node *fake,
    const struct qbatch *batch,
    const Qmq__Wire__PublishRequest *request,
    const struct known **ret_known);
static void learn(
    struct fake_node *fake, const struct qbatch *batch, const uint64_t *firsts, size_t count);
static bool pull(struct fake_node *fake, struct qnet_call *call, bool is_over);
static bool route(struct fake_node *fake, struct qnet_call *call, bool is_over);

static uint64_t
now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct fake_node *
fake_new(const char *name)
{
    struct fake_node *fake = calloc(1, sizeof(*fake));
    fake->acked = calloc(1, MESSAGES_MAX);
    (void)snprintf(fake->name, sizeof(fake->name), "%s", name);
    (void)snprintf(fake->url, sizeof(fake->url), "inproc://fake-%s", name);
    pthread_mutex_init(&fake->lock, NULL);
    fake->is_listed = true;
    fake->route_version = 1;
    fake_start(fake);
    cr_assert_eq(pthread_create(&fake->thread, NULL, run, fake), 0);
    return fake;
}

void
fake_free(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->is_ending = true;
    pthread_mutex_unlock(&fake->lock);
    pthread_join(fake->thread, NULL);
    fake_kill(fake);
    for (uint32_t index = 0; index < fake->stored_count; index++) {
        free(fake->stored[index].envelope);
        free(fake->stored[index].payload);
    }
    free(fake->acked);
    free(fake);
}

const char *
fake_url(const struct fake_node *fake)
{
    return fake->url;
}

void
fake_kill(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    for (unsigned index = 0; index < HELD_MAX; index++) {
        if (fake->parked[index].call) qnet_call_drop(fake->parked[index].call);
        if (fake->waiting[index].call) qnet_call_drop(fake->waiting[index].call);
        fake->parked[index].call = NULL;
        fake->waiting[index].call = NULL;
    }
    struct qnet_server *server = fake->server;
    fake->server = NULL;
    pthread_mutex_unlock(&fake->lock);
    if (server) qnet_server_free(server);
}

void
fake_start(struct fake_node *fake)
{
    struct qnet_server_options options = {
        .url = fake->url,
        .message_bytes_max = 8 * 1024 * 1024,
        .context = fake,
        .on_call = on_call,
        .on_gone = on_gone,
    };
    struct qnet_server *server;
    cr_assert_eq(qnet_server_new(&options, &server), Q_OK, "%s", q_fault_last()->what);
    pthread_mutex_lock(&fake->lock);
    fake->server = server;
    pthread_mutex_unlock(&fake->lock);
}

static void
on_gone(void *context, uint64_t connection)
{
    struct fake_node *fake = context;

    pthread_mutex_lock(&fake->lock);
    for (unsigned index = 0; index < HELD_MAX; index++) {
        struct held *lists[] = { &fake->parked[index], &fake->waiting[index] };
        for (unsigned which = 0; which < 2; which++) {
            if (!lists[which]->call) continue;
            if (qnet_call_connection(lists[which]->call) != connection) continue;
            qnet_call_drop(lists[which]->call);
            lists[which]->call = NULL;
        }
    }
    pthread_mutex_unlock(&fake->lock);
}

/* Answers parked calls; dies and comes back when told to. */
static void *
run(void *context)
{
    struct fake_node *fake = context;

    for (;;) {
        pthread_mutex_lock(&fake->lock);
        bool is_ending = fake->is_ending;
        bool must_die = fake->must_die;
        fake->must_die = false;
        for (unsigned index = 0; index < HELD_MAX && !must_die; index++) {
            struct qnet_call *call = fake->parked[index].call;
            if (!call) continue;
            bool is_over = now_ms() >= fake->parked[index].until_ms;
            bool was_answered =
                op_of(call) == QPROTO_PULL ? pull(fake, call, is_over) : route(fake, call, is_over);
            if (was_answered) fake->parked[index].call = NULL;
        }
        pthread_mutex_unlock(&fake->lock);
        if (is_ending) return NULL;
        if (must_die) {
            fake_kill(fake);
            for (uint64_t died_ms = now_ms(); now_ms() - died_ms < how_long(fake); usleep(1000))
                if (is_ended(fake)) return NULL;
            fake_start(fake);
        }
        usleep(1000);
    }
}

static unsigned
how_long(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    unsigned away_ms = fake->away_ms;
    pthread_mutex_unlock(&fake->lock);
    return away_ms;
}

static bool
is_ended(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    bool is_ending = fake->is_ending;
    pthread_mutex_unlock(&fake->lock);
    return is_ending;
}

static void
on_call(void *context, struct qnet_call *call)
{
    struct fake_node *fake = context;
    unsigned op = op_of(call);

    pthread_mutex_lock(&fake->lock);
    if (fake->must_die) {
        hold(fake->waiting, call, 0);
    } else if (fake->refuse_times > 0 && fake->refuse_op == op) {
        fake->refuse_times--;
        answer_error(call, op, fake->refuse_err);
    } else {
        handle(fake, call);
    }
    pthread_mutex_unlock(&fake->lock);
}

static unsigned
op_of(const struct qnet_call *call)
{
    struct qproto_message message;
    cr_assert_eq(qproto_parse(qnet_call_request(call), &message), Q_OK);
    return message.op;
}

static struct q_bytes
header_of(const struct qnet_call *call)
{
    struct qproto_message message;
    cr_assert_eq(qproto_parse(qnet_call_request(call), &message), Q_OK);
    return message.header;
}

static void
answer_with(struct qnet_call *call, unsigned op, int status, const ProtobufCMessage *header)
{
    struct qnet_buffer *buffer;
    cr_assert_eq(qnet_buffer_new(qproto_size(header, 0), &buffer), Q_OK);
    qproto_write(qnet_buffer_data(buffer), op, status, header, 0);
    qnet_call_answer(call, buffer);
}

static void
answer(struct qnet_call *call, const ProtobufCMessage *header)
{
    answer_with(call, op_of(call), 0, header);
}

static void
answer_error(struct qnet_call *call, unsigned op, enum q_err err)
{
    struct qproto_error error;
    qproto_error_fill(&error, err, NULL);
    answer_with(call, op, err, &error.header.base);
}

static void
hold(struct held *list, struct qnet_call *call, uint64_t until_ms)
{
    for (unsigned index = 0; index < HELD_MAX; index++) {
        if (list[index].call) continue;
        list[index] = (struct held){ .call = call, .until_ms = until_ms };
        return;
    }
    cr_assert_fail("too many calls are held");
}

static void
hello(struct fake_node *fake, struct qnet_call *call, struct q_bytes header)
{
    (void)header;
    Qmq__Wire__HelloAnswer hello = QMQ__WIRE__HELLO_ANSWER__INIT;
    hello.node_id = fake->name;
    answer(call, &hello.base);
}

static void
ask_route(struct fake_node *fake, struct qnet_call *call, struct q_bytes header)
{
    struct qproto_arena arena;
    qproto_arena_init(&arena);
    Qmq__Wire__RouteRequest *request = NULL;
    cr_assert_eq(QPROTO_UNPACK(header, route_request, &arena, &request), Q_OK);
    uint64_t until_ms = now_ms() + request->wait_ms;
    qproto_arena_reset(&arena);
    if (!route(fake, call, now_ms() >= until_ms)) hold(fake->parked, call, until_ms);
}

static bool
route(struct fake_node *fake, struct qnet_call *call, bool is_over)
{
    struct qproto_arena arena;
    qproto_arena_init(&arena);
    Qmq__Wire__RouteRequest *request = NULL;
    cr_assert_eq(QPROTO_UNPACK(header_of(call), route_request, &arena, &request), Q_OK);
    bool is_news = request->known_version != fake->route_version;
    qproto_arena_reset(&arena);
    if (!is_news && !is_over) return false;

    Qmq__Wire__RouteGroup own = QMQ__WIRE__ROUTE_GROUP__INIT;
    own.broker_group = fake->name;
    own.address = fake->url;
    own.writable = true;
    own.role = (char *)"broker";
    Qmq__Wire__RouteGroup others[4];
    Qmq__Wire__RouteGroup *groups[5];
    Qmq__Wire__RouteAnswer route = QMQ__WIRE__ROUTE_ANSWER__INIT;
    route.version = fake->route_version;
    route.groups = groups;
    if (fake->is_listed && !fake->is_other_first) groups[route.n_groups++] = &own;
    for (uint32_t index = 0; index < fake->other_count; index++) {
        others[index] = own;
        others[index].broker_group = (char *)fake->others[index]->name;
        others[index].address = (char *)fake->others[index]->url;
        groups[route.n_groups++] = &others[index];
    }
    if (fake->is_listed && fake->is_other_first) groups[route.n_groups++] = &own;
    Qmq__Wire__RouteSlots slots[8];
    Qmq__Wire__RouteSlots *slot_pointers[8];
    route.slots = slot_pointers;
    route.n_slots = fake->home_count ? fake->home_count : 1;
    for (uint32_t index = 0; index < route.n_slots; index++) {
        slot_pointers[index] = &slots[index];
        qmq__wire__route_slots__init(&slots[index]);
        slots[index].until = (uint32_t)(1024 * (index + 1) / route.n_slots);
        slots[index].broker_group = (char *)(fake->home_count ? fake->homes[index] : fake->name);
    }
    answer(call, &route.base);
    return true;
}

static void
take_publish(struct fake_node *fake, struct qnet_call *call, struct q_bytes header)
{
    (void)header;
    fake->publishes++;
    if (fake->is_holding) {
        hold(fake->waiting, call, 0);
    } else {
        publish(fake, call);
    }
}

static void
store_batch(struct fake_node *fake, const struct qbatch *batch, const uint8_t *payload)
{
    cr_assert_lt(fake->stored_count, STORED_MAX);
    cr_assert_eq(qbatch_check_payload(batch, payload), Q_OK);
    struct stored *stored = &fake->stored[fake->stored_count++];
    *stored = (struct stored){
        .envelope = malloc(batch->envelope_length),
        .envelope_size = batch->envelope_length,
        .payload = malloc(batch->payload_padded_length),
        .payload_size = batch->payload_padded_length,
        .first = fake->messages,
        .count = batch->message_count,
    };
    memcpy(stored->envelope, batch->envelope, stored->envelope_size);
    memcpy(stored->payload, payload, stored->payload_size);
    qbatch_set_prefix(stored->envelope, 1, fake->messages, 1000);
    fake->messages += stored->count;
}

/* As a broker that holds nothing: what comes early is told so at once. */
static enum q_err
judge(
    const struct fake_node *fake,
    const struct qbatch *batch,
    const Qmq__Wire__PublishRequest *request,
    const struct known **ret_known)
{
    uint64_t next = 0;
    *ret_known = NULL;
    cr_assert_gt(batch->request_sequence, 0);
    cr_assert_leq(request->settled_below, batch->request_sequence);
    for (uint32_t index = 0; index < fake->known_count; index++) {
        const struct known *known = &fake->known[index];
        if (memcmp(known->producer, batch->producer_id, sizeof(known->producer)) != 0) continue;
        if (known->sequence == batch->request_sequence) *ret_known = known;
        next = known->sequence + 1 > next ? known->sequence + 1 : next;
    }
    if (*ret_known && fake->has_mislaid) return Q_FAIL(Q_UNKNOWN_PRODUCER);
    if (*ret_known) return Q_OK;
    if (next == 0 && request->again && (batch->request_sequence > 1 || fake->has_forgotten))
        return Q_FAIL(Q_UNKNOWN_PRODUCER);
    if (next == 0) next = 1;
    if (next < request->settled_below) next = request->settled_below;
    return batch->request_sequence == next ? Q_OK : Q_FAIL(Q_OUT_OF_SEQUENCE);
}

static void
learn(struct fake_node *fake, const struct qbatch *batch, const uint64_t *firsts, size_t count)
{
    cr_assert_lt(fake->known_count, KNOWN_MAX);
    struct known *known = &fake->known[fake->known_count++];
    memcpy(known->producer, batch->producer_id, sizeof(known->producer));
    known->sequence = batch->request_sequence;
    for (size_t index = 0; index < count && index < 64; index++)
        known->firsts[index] = firsts[index];
}

static void
publish(struct fake_node *fake, struct qnet_call *call)
{
    struct qproto_message message;
    struct qproto_arena arena;
    Qmq__Wire__PublishRequest *request = NULL;
    qproto_arena_init(&arena);
    cr_assert_eq(qproto_parse(qnet_call_request(call), &message), Q_OK);
    cr_assert_eq(QPROTO_UNPACK(message.header, publish_request, &arena, &request), Q_OK);
    cr_assert_leq(request->envelopes_length, message.payload.size);

    uint64_t firsts[1024];
    size_t count = 0;
    uint32_t at = request->envelopes_length;
    struct qbatch_set_walk walk = {
        .envelopes = q_bytes_from(message.payload.data, at),
        .payloads = q_bytes_from(message.payload.data + at, message.payload.size - at),
    };
    struct qbatch batch;
    const uint8_t *payload;
    cr_assert_eq(qbatch_open(walk.envelopes, &batch), Q_OK);
    const struct known *known;
    enum q_err err = judge(fake, &batch, request, &known);
    if (err == Q_OK && request->n_subjects > 1) {
        err = fake->refuse_many;
        fake->refuse_many = Q_OK;
    }
    if (err != Q_OK) {
        qproto_arena_reset(&arena);
        answer_error(call, QPROTO_PUBLISH, err);
        return;
    }
    bool duplicate = known != NULL;
    for (; known && count < request->n_subjects; count++)
        firsts[count] = known->firsts[count % 64];
    while (!duplicate && qbatch_set_next(&walk, false, &batch, &payload) == Q_OK) {
        cr_assert_eq(batch.request_index, count);
        cr_assert_eq(batch.request_count, request->n_subjects);
        firsts[count++] = fake->messages;
        store_batch(fake, &batch, payload);
    }
    cr_assert_eq(count, request->n_subjects);
    if (!duplicate) learn(fake, &batch, firsts, count);
    qproto_arena_reset(&arena);

    if (!fake->loses_answer) {
        Qmq__Wire__PublishAnswer published = QMQ__WIRE__PUBLISH_ANSWER__INIT;
        published.first_sequences = firsts;
        published.n_first_sequences = count;
        published.duplicate = duplicate;
        answer(call, &published.base);
    } else {
        hold(fake->waiting, call, 0);
        fake->loses_answer = false;
        fake->must_die = true;
    }
}

static void
join(struct fake_node *fake, struct qnet_call *call, struct q_bytes header)
{
    (void)header;
    Qmq__Wire__JoinAnswer join = QMQ__WIRE__JOIN_ANSWER__INIT;
    fake->joins++;
    fake->has_left = false;
    join.session = fake->session = 100 + fake->joins;
    join.cursor = fake->cursor;
    join.waiting = fake->messages - fake->cursor;
    join.unacked = fake->cursor - fake->acked_count;
    join.consumer_timeout_ms = 300;
    answer(call, &join.base);
}

static void
ask_pull(struct fake_node *fake, struct qnet_call *call, struct q_bytes header)
{
    struct qproto_arena arena;
    qproto_arena_init(&arena);
    Qmq__Wire__PullRequest *request = NULL;
    cr_assert_eq(QPROTO_UNPACK(header, pull_request, &arena, &request), Q_OK);
    uint64_t until_ms = now_ms() + request->wait_ms;
    bool is_known = request->session == fake->session;
    qproto_arena_reset(&arena);

    if (!is_known)
        answer_error(call, QPROTO_PULL, Q_NO_SESSION);
    else if (!pull(fake, call, now_ms() >= until_ms))
        hold(fake->parked, call, until_ms);
}

/* The batches from what was not received on, each wholly, with a run for each wanted part. */
static bool
pull(struct fake_node *fake, struct qnet_call *call, bool is_over)
{
    struct qproto_arena arena;
    qproto_arena_init(&arena);
    Qmq__Wire__PullRequest *request = NULL;
    cr_assert_eq(QPROTO_UNPACK(header_of(call), pull_request, &arena, &request), Q_OK);
    uint64_t from = request->once ? fake->cursor : request->received;
    while (from < fake->messages && fake->acked[from])
        from++;
    uint64_t to = q_min_u64(from + request->messages_max, fake->messages);
    qproto_arena_reset(&arena);
    if (from >= to && !is_over) return false;

    Qmq__Wire__Run run = QMQ__WIRE__RUN__INIT;
    Qmq__Wire__Run *runs[] = { &run };
    Qmq__Wire__PullAnswer answer_header = QMQ__WIRE__PULL_ANSWER__INIT;
    run.pull_sequence = run.sequence = from;
    run.attempt = 1;
    size_t size = 0;
    for (uint32_t index = 0; index < fake->stored_count && from < to; index++) {
        const struct stored *stored = &fake->stored[index];
        if (stored->first + stored->count <= from || stored->first >= to) continue;
        answer_header.envelopes_length += stored->envelope_size;
        size += stored->envelope_size + stored->payload_size;
    }
    run.count = (uint32_t)(to - from);
    answer_header.runs = runs;
    answer_header.n_runs = from < to;
    fake->cursor = q_max_u64(fake->cursor, to);
    answer_header.unacked = fake->cursor - fake->acked_count;
    answer_header.waiting = fake->messages - fake->cursor;

    struct qnet_buffer *buffer;
    cr_assert_eq(qnet_buffer_new(qproto_size(&answer_header.base, size), &buffer), Q_OK);
    uint8_t *envelope_to =
        qproto_write(qnet_buffer_data(buffer), QPROTO_PULL, 0, &answer_header.base, size);
    uint8_t *payload_to = envelope_to + answer_header.envelopes_length;
    for (uint32_t index = 0; index < fake->stored_count && from < to; index++) {
        const struct stored *stored = &fake->stored[index];
        if (stored->first + stored->count <= from || stored->first >= to) continue;
        memcpy(envelope_to, stored->envelope, stored->envelope_size);
        memcpy(payload_to, stored->payload, stored->payload_size);
        if (fake->does_damage) payload_to[4] ^= 1;
        envelope_to += stored->envelope_size;
        payload_to += stored->payload_size;
    }
    qnet_call_answer(call, buffer);
    return true;
}

static void
ack(struct fake_node *fake, struct qnet_call *call, struct q_bytes header)
{
    struct qproto_arena arena;
    qproto_arena_init(&arena);
    Qmq__Wire__AckRequest *request = NULL;
    cr_assert_eq(QPROTO_UNPACK(header, ack_request, &arena, &request), Q_OK);
    bool is_known = request->session == fake->session;
    for (size_t index = 0; index < request->n_ranges && is_known; index++) {
        cr_assert_lt(request->ranges[index]->last, fake->cursor);
        for (uint64_t at = request->ranges[index]->first; at <= request->ranges[index]->last; at++)
        {
            fake->acked_count += !fake->acked[at];
            fake->acked[at] = 1;
        }
    }
    qproto_arena_reset(&arena);

    Qmq__Wire__AckAnswer acked = QMQ__WIRE__ACK_ANSWER__INIT;
    acked.unacked = fake->cursor - fake->acked_count;
    if (is_known)
        answer(call, &acked.base);
    else
        answer_error(call, QPROTO_ACK, Q_NO_SESSION);
}

static void
nack(struct fake_node *fake, struct qnet_call *call, struct q_bytes header)
{
    struct qproto_arena arena;
    qproto_arena_init(&arena);
    Qmq__Wire__NackRequest *request = NULL;
    cr_assert_eq(QPROTO_UNPACK(header, nack_request, &arena, &request), Q_OK);
    bool is_known = request->session == fake->session;
    for (size_t index = 0; index < request->n_ranges && is_known; index++)
        fake->nacked_count += request->ranges[index]->last - request->ranges[index]->first + 1;
    qproto_arena_reset(&arena);

    const Qmq__Wire__NackAnswer nacked = QMQ__WIRE__NACK_ANSWER__INIT;
    if (is_known)
        answer(call, &nacked.base);
    else
        answer_error(call, QPROTO_NACK, Q_NO_SESSION);
}

static void
leave(struct fake_node *fake, struct qnet_call *call, struct q_bytes header)
{
    (void)header;
    Qmq__Wire__Empty empty = QMQ__WIRE__EMPTY__INIT;
    fake->has_left = op_of(call) == QPROTO_LEAVE;
    answer(call, &empty.base);
}

static void
handle(struct fake_node *fake, struct qnet_call *call)
{
    static const struct {
        unsigned op;
        handler *handler;
    } handlers[] = {
        { QPROTO_HELLO, hello },
        { QPROTO_META_ROUTE, ask_route },
        { QPROTO_PUBLISH, take_publish },
        { QPROTO_JOIN, join },
        { QPROTO_PULL, ask_pull },
        { QPROTO_ACK, ack },
        { QPROTO_KEEP_ALIVE, leave },
        { QPROTO_LEAVE, leave },
        { QPROTO_NACK, nack },
    };
    for (size_t index = 0; index < sizeof(handlers) / sizeof(handlers[0]); index++) {
        if (handlers[index].op != op_of(call)) continue;
        handlers[index].handler(fake, call, header_of(call));
        return;
    }
    cr_assert_fail("operation %u", op_of(call));
}

void
fake_forget_producers(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->known_count = 0;
    fake->has_forgotten = true;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_mislay(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->has_mislaid = true;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_refuse(struct fake_node *fake, unsigned op, enum q_err err, unsigned times)
{
    pthread_mutex_lock(&fake->lock);
    fake->refuse_op = op;
    fake->refuse_err = err;
    fake->refuse_times = times;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_refuse_many(struct fake_node *fake, enum q_err err)
{
    pthread_mutex_lock(&fake->lock);
    fake->refuse_many = err;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_lose_answer(struct fake_node *fake, unsigned away_ms)
{
    pthread_mutex_lock(&fake->lock);
    fake->loses_answer = true;
    fake->away_ms = away_ms;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_hold(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->is_holding = true;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_release(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->is_holding = false;
    let_through(fake);
    pthread_mutex_unlock(&fake->lock);
}

void
fake_let_through(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    let_through(fake);
    pthread_mutex_unlock(&fake->lock);
}

static void
let_through(struct fake_node *fake)
{
    for (unsigned index = 0; index < HELD_MAX; index++) {
        if (fake->waiting[index].call) publish(fake, fake->waiting[index].call);
        fake->waiting[index].call = NULL;
    }
}

void
fake_forget_session(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->session = 0;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_damage(struct fake_node *fake, bool damage)
{
    pthread_mutex_lock(&fake->lock);
    fake->does_damage = damage;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_list(struct fake_node *fake, const struct fake_node *other, bool is_first)
{
    pthread_mutex_lock(&fake->lock);
    fake->others[fake->other_count++] = other;
    fake->is_other_first = is_first;
    fake->route_version++;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_end_death(struct fake_node *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->away_ms = 0;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_set_homes(struct fake_node *fake, const char *const *names, unsigned count)
{
    pthread_mutex_lock(&fake->lock);
    for (unsigned index = 0; index < count; index++)
        fake->homes[index] = names[index];
    fake->home_count = count;
    fake->route_version++;
    pthread_mutex_unlock(&fake->lock);
}

void
fake_set_listed(struct fake_node *fake, bool is_listed)
{
    pthread_mutex_lock(&fake->lock);
    fake->is_listed = is_listed;
    fake->route_version++;
    pthread_mutex_unlock(&fake->lock);
}

#define FAKE_GETTER(type, function, field)                                                         \
    type function(struct fake_node *fake)                                                          \
    {                                                                                              \
        pthread_mutex_lock(&fake->lock);                                                           \
        type value = fake->field;                                                                  \
        pthread_mutex_unlock(&fake->lock);                                                         \
        return value;                                                                              \
    }
FAKE_GETTER(uint64_t, fake_message_count, messages)
FAKE_GETTER(uint64_t, fake_acked_count, acked_count)
FAKE_GETTER(uint64_t, fake_nacked_count, nacked_count)
FAKE_GETTER(uint64_t, fake_batch_count, stored_count)
FAKE_GETTER(uint64_t, fake_publish_count, publishes)
FAKE_GETTER(uint64_t, fake_join_count, joins)
FAKE_GETTER(bool, fake_has_left, has_left)

void
fake_body(struct fake_node *fake, uint64_t sequence, char *out, size_t out_size)
{
    pthread_mutex_lock(&fake->lock);
    for (uint32_t index = 0; index < fake->stored_count; index++) {
        const struct stored *stored = &fake->stored[index];
        if (sequence < stored->first || sequence - stored->first >= stored->count) continue;

        struct qbatch batch;
        struct q_bytes content;
        struct qbatch_walk walk;
        struct qbatch_view view;
        struct q_bytes envelope = q_bytes_from(stored->envelope, stored->envelope_size);
        cr_assert_eq(qbatch_open(envelope, &batch), Q_OK);
        uint8_t *scratch = malloc(batch.content_length + 1);
        cr_assert_eq(qbatch_content(&batch, stored->payload, scratch, &content), Q_OK);
        qbatch_walk_start(&walk, &batch, content);
        do {
            cr_assert_eq(qbatch_walk_next(&walk, true, &view), Q_OK);
        } while (stored->first + view.index < sequence);
        (void)snprintf(out, out_size, "%.*s", (int)view.body.size, (const char *)view.body.data);
        free(scratch);
    }
    pthread_mutex_unlock(&fake->lock);
}

void
fake_store(struct fake_node *fake, const char *const *bodies, unsigned count, bool compress)
{
    struct qbatch_builder *builder;
    struct qbatch_builder_options options = { .compress = compress };
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_OK);
    struct q_bytes tags[] = { q_bytes_from_text("t0"), q_bytes_from_text("t1") };
    struct qbatch_property property = { q_bytes_from_text("colour"), q_bytes_from_text("red") };
    for (unsigned index = 0; index < count; index++) {
        struct qbatch_message message = {
            .body = q_bytes_from_text(bodies[index]),
            .tags = &tags[index % 2],
            .tag_count = 1,
            .properties = &property,
            .property_count = 1,
            .time_ms = 5000 + index,
            .counter = index,
        };
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    }

    uint32_t envelope_size;
    uint32_t payload_size;
    cr_assert_eq(qbatch_builder_close(builder, &envelope_size, &payload_size), Q_OK);
    uint8_t *envelope = malloc(envelope_size);
    uint8_t *payload = malloc(payload_size);
    struct qbatch_request_place place = { .request_count = 1 };
    qbatch_builder_write(builder, &place, envelope, payload);
    struct qbatch batch;
    cr_assert_eq(qbatch_open(q_bytes_from(envelope, envelope_size), &batch), Q_OK);
    pthread_mutex_lock(&fake->lock);
    store_batch(fake, &batch, payload);
    pthread_mutex_unlock(&fake->lock);
    free(envelope);
    free(payload);
    qbatch_builder_free(builder);
}
