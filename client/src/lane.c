/*
 * lane.c: requests to one broker group: sealed, sent, and sent again.
 *
 * A request is immutable: its batches were closed when it was sealed, and are written with the same
 * sequence whenever it is sent. The broker stores it once, and in its turn (docs/publishing.md).
 *
 * What is known of a request that has no outcome:
 *
 *   it is not stored    it was never sent, or its failure was answered: it may go elsewhere at once
 *   it may be stored    an answer was lost: it is asked for again, here; only when the group has
 *                       been away for a while, and duplicates are allowed, it may go elsewhere
 *
 * Elsewhere is another way of its subject. A request with a batch that is bound to its broker group is
 * bound as a whole; where there are several groups, bound and other batches don't share one.
 *
 * A number whose request went elsewhere is not used again: the broker passes over it by what later
 * calls say of what is settled.
 *
 * One way, requests have no number and go to another address, one at a time, which keeps their order.
 * Their answer says that they came, which is their outcome. One that may have come is never sent again.
 */
#include <stdlib.h>

#include <qbase/assert.h>

#include "producer.h"

enum {
    REQUEST_BYTES = 256 * 1024, /* full: the next batch goes into the next request */
    REQUEST_BATCHES_MAX = 512,
    ON_AIR_SMALL = 2, /* while less than a full request waits */
    ON_AIR_FULL = 4,
    TRY_TIMEOUT_MS = 5 * 1000,
    LOOKED_AT_MAX = 2 * REQUEST_BATCHES_MAX, /* batches, to fill a request */
};

struct request {
    struct call call;
    struct q_list node; /* lane.requests */
    struct lane *lane;
    struct q_list batches;
    uint32_t batch_count;
    uint32_t envelopes_size;
    uint32_t payloads_size;
    uint64_t sequence;
    uint64_t deadline_ns; /* of its last batch */
    bool is_bound;        /* some of its messages have an order key */
    bool is_on_air;
    bool is_settled;    /* has an outcome; waits for those before it */
    bool is_parting;    /* its batches are to go one by one */
    bool may_be_stored; /* an answer was lost, and it will be asked for */
    uint64_t sent_ns;   /* the last time */
    uint64_t lost_ns;   /* since when it may be stored */
    bool is_refused;    /* the last try was, for good */
    enum q_err err;     /* of the last try */
    struct q_fault fault;
};

static uint32_t on_air_max(const struct lane *lane);
static struct request *seal(struct lane *lane);
static enum q_err take_batches(struct lane *lane, struct request *request);
static enum q_err submit(struct request *request);
static enum q_err build(struct request *request);
static enum broker_link link_of(const struct lane *lane);
static unsigned op_of(const struct lane *lane);
static uint64_t settled_below(const struct lane *lane);
static void write_batches(struct request *request, uint8_t *payload);
static void on_published(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer);
static enum q_err check_answer(const struct request *request, const struct answer *answer);
static void take_failure(struct request *request, enum q_err err);
static bool is_lost(enum q_err err);
static void doubt(struct request *request);
static bool is_of_a_batch(const struct request *request);
static void seal_again(struct request *request);
static void part_now(struct lane *lane);
static bool is_kept(const struct request *request);
static struct request *first_parting(struct lane *lane);
static void settle(struct request *request, const Qmq__Wire__PublishAnswer *answer);
static void settle_failed(struct request *request);
static void finish_settled(struct lane *lane);
static void finish(struct request *request);
static void expire_waiting(struct lane *lane);
static void stall(struct lane *lane);
static void call_back_unsent(struct lane *lane);
static uint64_t leave(struct lane *lane, uint64_t now_ns);
static bool can_leave(const struct request *request);
static bool batch_can_leave(const struct batch *batch, const struct lane *lane);
static void send_elsewhere(struct lane *lane, struct q_list *batches);
static void unseal(struct request *request, struct q_list *batches);
static void give_up_late(struct lane *lane, uint64_t now_ns);
static void resume(struct lane *lane);

enum q_err
lane_get(struct qmq_producer *producer, struct broker *broker, struct lane **ret_lane)
{
    q_list_for_each(node, &producer->lanes) {
        *ret_lane = q_container_of(node, struct lane, node);
        if ((*ret_lane)->broker == broker) return Q_OK;
    }

    struct lane *lane = calloc(1, sizeof(*lane));
    if (!lane) return Q_FAIL(Q_E_NOMEM);
    lane->producer = producer;
    lane->broker = broker;
    lane->next_sequence = 1;
    q_list_init(&lane->waiting);
    q_list_init(&lane->requests);
    q_list_push_back(&producer->lanes, &lane->node);
    *ret_lane = lane;
    return Q_OK;
}

void
lane_pump(struct lane *lane)
{
    while (!lane->is_stalled && !lane->is_parting && !q_list_is_empty(&lane->waiting)) {
        if (lane->on_air >= on_air_max(lane)) return;

        struct request *request = seal(lane);
        if (!request || submit(request) != Q_OK) stall(lane);
    }
}

static uint32_t
on_air_max(const struct lane *lane)
{
    if (lane->producer->one_way) return 1;
    return lane->waiting_bytes >= REQUEST_BYTES ? ON_AIR_FULL : ON_AIR_SMALL;
}

static struct request *
seal(struct lane *lane)
{
    struct request *request = calloc(1, sizeof(*request));
    if (!request) return NULL;
    request->lane = lane;
    q_list_init(&request->batches);

    enum q_err err = take_batches(lane, request);
    if (request->batch_count == 0) {
        Q_ASSERT(err != Q_OK);
        free(request);
        return NULL;
    }
    request->sequence = lane->producer->one_way ? 0 : lane->next_sequence++;
    q_list_push_back(&lane->requests, &request->node);
    return request;
}

static enum q_err
take_batches(struct lane *lane, struct request *request)
{
    uint64_t until_ns = 0;
    uint32_t looked_at = 0;
    bool is_apart = client_has_several(lane->producer->client);

    q_list_for_each_safe(node, &lane->waiting) {
        struct batch *batch = q_container_of(node, struct batch, node);
        if (request->batch_count == REQUEST_BATCHES_MAX || ++looked_at > LOOKED_AT_MAX) break;
        if (batch->is_alone && request->batch_count > 0) break;
        if (request->batch_count == 0) until_ns = batch->deadline_ns + lane->producer->together_ns;
        if (batch->deadline_ns > until_ns) break;
        if (is_apart && request->batch_count > 0 && batch->is_ordered != request->is_bound)
            continue;
        Q_TRY(batch_close(batch));

        uint32_t size = batch->envelope_size + batch->payload_size;
        uint32_t taken = request->envelopes_size + request->payloads_size;
        if (taken > 0 && taken + size > REQUEST_BYTES) break;
        request->envelopes_size += batch->envelope_size;
        request->payloads_size += batch->payload_size;
        request->batch_count++;
        request->is_bound |= batch->is_ordered;
        request->deadline_ns = q_max_u64(request->deadline_ns, batch->deadline_ns);
        lane->waiting_bytes -= batch->held_bytes;
        q_list_remove(&batch->node);
        q_list_push_back(&request->batches, &batch->node);
        if (batch->is_alone) break;
    }
    return Q_OK;
}

static enum q_err
submit(struct request *request)
{
    struct lane *lane = request->lane;
    uint64_t now_ns = client_now_ns(lane->producer->client);
    uint64_t rest_ns = request->deadline_ns - q_min_u64(now_ns, request->deadline_ns);
    uint64_t timeout_ms = q_min_u64(rest_ns / Q_NS_PER_MS + 1, TRY_TIMEOUT_MS);

    request->call.net = (struct qnet_request){ .timeout_ms = timeout_ms, .done = on_published };
    enum q_err err = broker_check_link(lane->broker, link_of(lane));
    if (err == Q_OK) err = build(request);
    if (err == Q_OK) err = broker_submit(lane->broker, link_of(lane), &request->call);
    if (err == Q_OK) {
        hooks_count(&lane->producer->client->hooks, COUNT_requests, 1);
        if (request->sent_ns != 0) hooks_count(&lane->producer->client->hooks, COUNT_retried, 1);
        request->is_on_air = true;
        request->sent_ns = now_ns;
        lane->on_air++;
        return Q_OK;
    }
    breaker_failed(&lane->breaker, true, now_ns, random_number());
    request->err = err;
    request->fault = *q_fault_last();
    return err;
}

static enum q_err
build(struct request *request)
{
    Qmq__Wire__PublishRequest header = QMQ__WIRE__PUBLISH_REQUEST__INIT;
    char *subjects[REQUEST_BATCHES_MAX];
    header.subjects = subjects;
    header.envelopes_length = request->envelopes_size;
    header.mode =
        request->lane->producer->one_way ? QMQ_MODE_DEFAULT : request->lane->producer->mode;
    header.settled_below = settled_below(request->lane);
    header.again = request->may_be_stored;
    q_list_for_each(node, &request->batches) {
        subjects[header.n_subjects++] = q_container_of(node, struct batch, node)->subject->name;
    }

    uint8_t *payload;
    size_t size = (size_t)request->envelopes_size + request->payloads_size;
    unsigned op = op_of(request->lane);
    Q_TRY(call_build(op, &header.base, size, &request->call.net.buffer, &payload));
    write_batches(request, payload);
    return Q_OK;
}

static enum broker_link
link_of(const struct lane *lane)
{
    return lane->producer->one_way ? BROKER_ONE_WAY : BROKER_CALLS;
}

static unsigned
op_of(const struct lane *lane)
{
    return lane->producer->one_way ? QPROTO_PUBLISH_ONE_WAY : QPROTO_PUBLISH;
}

/* All requests of the lane below have their outcome. */
static uint64_t
settled_below(const struct lane *lane)
{
    q_list_for_each(node, &lane->requests) {
        const struct request *request = q_container_of(node, struct request, node);
        if (!request->is_settled) return request->sequence;
    }
    return lane->next_sequence;
}

static void
write_batches(struct request *request, uint8_t *payload)
{
    struct qbatch_request_place place = {
        .request_sequence = request->sequence,
        .request_count = request->batch_count,
    };
    uint8_t *envelope_to = payload;
    uint8_t *payload_to = payload + request->envelopes_size;

    q_list_for_each(node, &request->batches) {
        struct batch *batch = q_container_of(node, struct batch, node);
        place.due_ms = batch->due_ms;
        qbatch_builder_write(batch->builder, &place, envelope_to, payload_to);
        envelope_to += batch->envelope_size;
        payload_to += batch->payload_size;
        place.request_index++;
    }
}

static void
on_published(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer)
{
    struct call *call = q_container_of(net, struct call, net);
    struct request *request = q_container_of(call, struct request, call);
    struct lane *lane = request->lane;
    struct qmq_producer *producer = lane->producer;
    struct answer answer;

    if (err == Q_OK) err = answer_open(&answer, buffer, op_of(lane));
    bool has_answer = err == Q_OK;
    if (has_answer && !producer->one_way) err = check_answer(request, &answer);

    pthread_mutex_lock(&producer->lock);
    lane->on_air--;
    request->is_on_air = false;
    request->err = err;
    if (err == Q_OK) {
        breaker_succeeded(&lane->breaker);
        if (lane->was_open) client_wake(producer->client);
        lane->backoff_ms = 0;
        settle(request, producer->one_way ? NULL : (const Qmq__Wire__PublishAnswer *)answer.header);
    } else {
        request->fault = *q_fault_last();
        take_failure(request, err);
        if (err == Q_E_CONNECTION) call_back_unsent(lane);
    }
    part_now(lane);
    finish_settled(lane);
    expire_waiting(lane);
    lane_pump(lane);
    batches_deliver(producer);
    if (producer->is_stopping) pthread_cond_broadcast(&producer->changed);
    pthread_mutex_unlock(&producer->lock);

    if (has_answer) answer_close(&answer);
}

/* It is tried again, or has failed for good. */
static void
take_failure(struct request *request, enum q_err err)
{
    struct lane *lane = request->lane;
    const struct qmq_producer *producer = lane->producer;
    uint64_t now_ns = client_now_ns(producer->client);

    if (is_lost(err) || is_passing(err))
        breaker_failed(&lane->breaker, is_lost(err), now_ns, random_number());
    else
        breaker_succeeded(&lane->breaker);
    /* What a broken store had in hand may be found by its next start; without memory for an answer a
     * broker says that. */
    bool may_be_stored = (is_lost(err) && request->call.net.was_sent) || err == Q_E_BROKEN ||
                         err == Q_E_PROTOCOL || err == Q_E_NOMEM;
    if (may_be_stored && !request->may_be_stored) request->lost_ns = request->sent_ns;
    request->may_be_stored |= may_be_stored;

    bool can_pass = is_passing(err) || err == Q_E_BROKEN;
    if (producer->one_way && request->may_be_stored) {
        /* Nothing is sent twice that may be stored. What comes next waits until it may be better. */
        if (can_pass) stall(lane);
        can_pass = false;
    }
    bool is_mislaid = false;
    if (err == Q_UNKNOWN_PRODUCER && producer->duplicates == QMQ_DUPLICATES_MAYBE) {
        /* Said of one that does not claim to have been sent before, it is not the producer that is
         * unknown, but what became of this number: another one is due. */
        is_mislaid = !request->may_be_stored;
        doubt(request);
        can_pass = true;
    }
    bool is_late = now_ns >= request->deadline_ns || producer->is_stopping;
    request->is_refused = !can_pass && !request->may_be_stored;
    if (can_pass && !is_late)
        stall(lane);
    else if (is_of_a_batch(request) && !producer->is_stopping)
        request->is_parting = lane->is_parting = true;
    else
        settle_failed(request);
    if (is_mislaid && !is_late) seal_again(request);
}

/*
 * No word from the broker. STOPPING is also what a call gets whose link was given up, since the
 * broker has moved, and what a broker answers that is being stopped: it may have stored what it had.
 */
static bool
is_lost(enum q_err err)
{
    return err == Q_E_CONNECTION || err == Q_TIMED_OUT || err == Q_STOPPING || err == Q_UNAVAILABLE;
}

/* From now on it is a new one, wherever it goes: what there may be of it already is told. */
static void
doubt(struct request *request)
{
    request->may_be_stored = false;
    q_list_for_each(node, &request->batches) {
        q_container_of(node, struct batch, node)->maybe_duplicate = true;
    }
}

static enum q_err
check_answer(const struct request *request, const struct answer *answer)
{
    size_t count = ((const Qmq__Wire__PublishAnswer *)answer->header)->n_first_sequences;
    if (count == request->batch_count) return Q_OK;
    return Q_FAIL(
        Q_E_PROTOCOL,
        .what = q_text("%zu sequences came for %u batches", count, request->batch_count));
}

/* Its batches go first, as a request with another number. The broker passes over the old one. */
static void
seal_again(struct request *request)
{
    struct lane *lane = request->lane;

    q_list_for_each(node, &request->batches) {
        lane->waiting_bytes += q_container_of(node, struct batch, node)->held_bytes;
    }
    q_list_splice_back(&request->batches, &lane->waiting);
    q_list_splice_back(&lane->waiting, &request->batches);
    q_list_remove(&request->node);
    free(request);
}

/*
 * The request was refused for what is in one of its batches, and nothing of it is stored: a batch is
 * due too far, or of a subject for which the broker has no room.
 */
static bool
is_of_a_batch(const struct request *request)
{
    bool is_refused = request->err == Q_DUE_TOO_FAR || request->err == Q_TOO_BIG;
    return is_refused && request->batch_count > 1 && !request->may_be_stored;
}

/*
 * Each batch of a request that is parted goes by itself, before all that waits, so that each has its own
 * outcome. Requests behind it that are on the air come back first: the broker holds them until it has this
 * number, which nobody calls settled, and sends them back after a second. So they are not stored, whether
 * their answers come or not, and follow as new ones.
 */
static void
part_now(struct lane *lane)
{
    if (!lane->is_parting || lane->on_air > 0) return;
    lane->is_parting = false;

    struct request *first = first_parting(lane);
    struct q_list *at = first ? lane->requests.prev : &lane->requests;
    for (struct q_list *before; at != &lane->requests; at = before) {
        struct request *request = q_container_of(at, struct request, node);
        before = request == first ? &lane->requests : at->prev;
        if (request->is_settled || is_kept(request)) continue;
        q_list_for_each(node, &request->batches) {
            q_container_of(node, struct batch, node)->is_alone |= request->is_parting;
        }
        seal_again(request);
    }
}

/* What a delay group may have stored is asked for as it is. There is no order to keep. */
static bool
is_kept(const struct request *request)
{
    const struct batch *batch = q_container_of(request->batches.next, struct batch, node);
    return request->may_be_stored && batch->subject->is_delayed;
}

static struct request *
first_parting(struct lane *lane)
{
    q_list_for_each(node, &lane->requests) {
        struct request *request = q_container_of(node, struct request, node);
        if (request->is_parting && !request->is_settled) return request;
    }
    return NULL;
}

/* `answer` NULL: it failed for good, or it went one way, and no sequences are told. */
static void
settle(struct request *request, const Qmq__Wire__PublishAnswer *answer)
{
    size_t index = 0;

    request->is_settled = true;
    q_list_for_each(node, &request->batches) {
        struct batch *batch = q_container_of(node, struct batch, node);
        if (!answer) batch->first_sequence = UINT64_MAX;
        if (answer) batch->first_sequence = answer->first_sequences[index++];
        if (answer) batch->duplicate = answer->duplicate;
    }
}

/* Only what is known not to be stored has failed. */
static void
settle_failed(struct request *request)
{
    if (request->may_be_stored) {
        char why[Q_FAULT_LINE_MAX];
        q_fault_format(&request->fault, why, sizeof(why));
        request->err = Q_FAIL(
            Q_OUTCOME_UNKNOWN, .what = q_text(
                                   "whether broker group %s has stored it is not known: %s",
                                   request->lane->broker->group, why));
        request->fault = *q_fault_last();
    }
    settle(request, NULL);
}

/* Outcomes are told in the order of sending. */
static void
finish_settled(struct lane *lane)
{
    while (!q_list_is_empty(&lane->requests)) {
        struct request *request = q_container_of(lane->requests.next, struct request, node);
        if (!request->is_settled) return;
        finish(request);
    }
}

static void
finish(struct request *request)
{
    if (request->err != Q_OK) q_fault_adopt(&request->fault);
    q_list_for_each_safe(node, &request->batches) {
        struct batch *batch = q_container_of(node, struct batch, node);
        batch->is_refused = request->is_refused;
        if (request->batch_count == 1) batch->subject->goes_alone = request->err == Q_TOO_BIG;
        batch_finish(batch, request->err, request->lane->broker);
    }
    q_list_remove(&request->node);
    free(request);
}

/* What waited for its turn too long is not sent any more: it would be stored, perhaps, and late. */
static void
expire_waiting(struct lane *lane)
{
    uint64_t now_ns = client_now_ns(lane->producer->client);
    uint64_t expired_bytes;

    if (q_list_is_empty(&lane->waiting)) return;
    if (now_ns < q_container_of(lane->waiting.next, struct batch, node)->deadline_ns) return;
    enum q_err err = Q_FAIL(
        Q_TIMED_OUT,
        .what = q_text("broker group %s answers too slowly to be sent more", lane->broker->group));
    batches_expire(&lane->waiting, now_ns, err, NULL, &expired_bytes);
    lane->waiting_bytes -= expired_bytes;
}

static void
stall(struct lane *lane)
{
    struct qmq_client *client = lane->producer->client;

    if (lane->is_stalled) return;
    lane->is_stalled = true;
    lane->resume_ns = client_now_ns(client) + backoff_next(&lane->backoff_ms);
    client_wake(client);
}

/*
 * The connection took this request with it. Later ones that had not left yet still wait for the next
 * connection: they would only be held there until this one is sent again, and may go elsewhere.
 */
static void
call_back_unsent(struct lane *lane)
{
    q_list_for_each(node, &lane->requests) {
        struct request *request = q_container_of(node, struct request, node);
        if (request->is_on_air) call_cancel(&request->call);
    }
}

uint64_t
lane_tick(struct lane *lane, uint64_t now_ns)
{
    uint64_t due_ns = UINT64_MAX;

    if (breaker_is_open(&lane->breaker) || lane->is_unwanted) due_ns = leave(lane, now_ns);
    if (q_list_is_empty(&lane->requests) && q_list_is_empty(&lane->waiting))
        lane->is_stalled = false;
    if (!lane->is_stalled) return due_ns;
    if (now_ns < lane->resume_ns) return q_min_u64(due_ns, lane->resume_ns);
    give_up_late(lane, now_ns);
    if (broker_check_link(lane->broker, link_of(lane)) == Q_OK)
        resume(lane);
    else
        lane->resume_ns = now_ns + BROKER_LOST_PAUSE_NS;
    return lane->is_stalled ? q_min_u64(due_ns, lane->resume_ns) : due_ns;
}

/*
 * What is not stored here goes another way at once, if its subject has one; what may be stored, after a
 * while, if it may. Returns when to come back.
 */
static uint64_t
leave(struct lane *lane, uint64_t now_ns)
{
    const struct qmq_producer *producer = lane->producer;
    struct q_list batches = Q_LIST_INIT(batches);
    uint64_t due_ns = UINT64_MAX;

    lane->is_unwanted = false;
    /* From the last one on: what goes may not be overtaken by what stays and comes to be stored. */
    for (struct q_list *at = lane->requests.prev, *before; at != &lane->requests; at = before) {
        struct request *last = q_container_of(at, struct request, node);
        before = at->prev;
        if (last->is_settled || last->is_bound) continue;
        if (last->is_on_air || !can_leave(last)) break;
        if (last->may_be_stored) {
            uint64_t until_ns = last->lost_ns + producer->unknown_ns;
            if (producer->duplicates == QMQ_DUPLICATES_NEVER) break;
            if (now_ns < until_ns) due_ns = q_min_u64(due_ns, until_ns);
            if (now_ns < until_ns) break;
            doubt(last);
        }
        struct q_list of_last = Q_LIST_INIT(of_last);
        unseal(last, &of_last);
        q_list_splice_back(&of_last, &batches);
        q_list_splice_back(&batches, &of_last);
    }
    q_list_for_each_safe(node, &lane->waiting) {
        struct batch *batch = q_container_of(node, struct batch, node);
        if (!batch_can_leave(batch, lane)) continue;
        lane->waiting_bytes -= batch->held_bytes;
        batch_close_for_more(batch);
        q_list_remove(node);
        q_list_push_back(&batches, node);
    }
    send_elsewhere(lane, &batches);
    finish_settled(lane);
    return due_ns;
}

static bool
can_leave(const struct request *request)
{
    q_list_for_each(node, &request->batches) {
        if (!batch_can_leave(q_container_of(node, struct batch, node), request->lane)) return false;
    }
    return true;
}

static bool
batch_can_leave(const struct batch *batch, const struct lane *lane)
{
    struct subject *subject = batch->subject;

    if (batch->is_ordered) return false;
    bool must = breaker_is_open(&lane->breaker) || !ways_has(subject->ways, lane);
    bool has_news = subject->route_changes != lane->producer->route_changes;
    bool can = ways_other(subject->ways, lane) != NULL;
    if (must && !can && has_news) subject_refresh(subject);
    return must && can;
}

static void
send_elsewhere(struct lane *lane, struct q_list *batches)
{
    struct qmq_producer *producer = lane->producer;
    struct q_list *node;

    while ((node = q_list_pop_front(batches))) {
        struct batch *batch = q_container_of(node, struct batch, node);
        struct lane *other = ways_other(batch->subject->ways, lane)->lane;
        /* By their deadlines, the next one first. */
        struct q_list *at = other->waiting.next;
        while (at != &other->waiting &&
               q_container_of(at, struct batch, node)->deadline_ns <= batch->deadline_ns)
            at = at->next;
        q_list_insert_before(at, node);
        other->waiting_bytes += batch->held_bytes;
    }
    q_list_for_each(at, &producer->lanes) {
        struct lane *other = q_container_of(at, struct lane, node);
        if (other != lane) lane_pump(other);
    }
}

static void
unseal(struct request *request, struct q_list *batches)
{
    q_list_splice_back(batches, &request->batches);
    q_list_remove(&request->node);
    free(request);
}

static void
give_up_late(struct lane *lane, uint64_t now_ns)
{
    enum q_err err = Q_TIMED_OUT;
    struct q_fault fault = { .err = err };

    q_list_for_each(node, &lane->requests) {
        struct request *request = q_container_of(node, struct request, node);
        if (request->is_settled) continue;
        /* One on its first flight has no failure yet. */
        if (request->err != Q_OK) {
            err = request->err;
            fault = request->fault;
        }
        if (now_ns >= request->deadline_ns && !request->is_on_air) settle_failed(request);
    }
    finish_settled(lane);

    uint64_t expired_bytes;
    q_fault_adopt(&fault);
    batches_expire(&lane->waiting, now_ns, err, NULL, &expired_bytes);
    lane->waiting_bytes -= expired_bytes;
}

static void
resume(struct lane *lane)
{
    lane->is_stalled = false;
    q_list_for_each(node, &lane->requests) {
        struct request *request = q_container_of(node, struct request, node);
        if (request->is_parting && !request->is_settled) return;
        if (!request->is_settled && !request->is_on_air && submit(request) != Q_OK) {
            stall(lane);
            return;
        }
    }
    lane_pump(lane);
}

void
lane_empty(struct lane *lane, struct q_list *batches)
{
    Q_ASSERT(lane->on_air == 0);

    q_list_for_each_safe(node, &lane->requests) {
        struct request *request = q_container_of(node, struct request, node);
        if (!request->is_settled && request->may_be_stored) settle_failed(request);
        if (request->is_settled)
            finish(request);
        else
            unseal(request, batches);
    }
    q_list_splice_back(batches, &lane->waiting);
    lane->waiting_bytes = 0;
    lane->is_stalled = false;
}

void
lane_cancel(struct lane *lane)
{
    lane->is_stalled = true;
    q_list_for_each(node, &lane->requests) {
        struct request *request = q_container_of(node, struct request, node);
        if (request->is_on_air) call_cancel(&request->call);
    }
}

void
lane_free(struct lane *lane)
{
    Q_ASSERT(q_list_is_empty(&lane->requests));
    free(lane);
}
