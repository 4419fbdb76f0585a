/*
 * push_ack.c: the thread that sends verdicts, gathered to ranges.
 */
#include <stdlib.h>

#include <qbase/assert.h>

#include "push.h"

enum {
    TRY_TIMEOUT_MS = 5 * 1000,
    /* While handlers are busy, acks are gathered so long, or until so many are there. */
    GATHER_NS = Q_NS_PER_MS,
    GATHER_MESSAGES = 1024,
};

static uint64_t look(struct lane *lane);
static void take_answer(struct lane *lane);
static bool choose(struct lane *lane, uint64_t now_ns, uint64_t *due_ns);
static bool is_urgent(const struct lane *lane);
static void choose_nacks(struct lane *lane);
static bool is_same_nack(const struct qmq_nack_options *a, const struct qmq_nack_options *b);
static void take_chosen(struct lane *lane);
static void sort(struct lane *lane);
static int compare(const void *a, const void *b);
static void send(struct lane *lane);
static enum q_err submit(struct lane *lane);
static enum q_err find_session(struct lane *lane);
static void on_answered(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer);
static void on_record(struct lane *lane, uint64_t expired);
static void not_on_record(struct lane *lane, enum q_err err);
static void ask_for_less(struct lane *lane);
static void forget_sent(struct lane *lane);
static void forget_all(struct lane *lane, struct deliveries *list);
static void cancel(struct lane *lane);

void *
push_ack(void *context)
{
    struct qmq_push *push = context;

    pthread_mutex_lock(&push->lock);
    for (;;) {
        uint64_t due_ns = UINT64_MAX;
        bool is_waiting = false;
        push->is_ack_wanted = false;
        q_list_for_each(node, &push->lanes) {
            struct lane *lane = q_container_of(node, struct lane, node);
            due_ns = q_min_u64(due_ns, look(lane));
            if (push->phase == PUSH_OVER && lane->is_under_way) cancel(lane);
            is_waiting |= lane->is_under_way;
        }
        if (push->phase == PUSH_OVER && !is_waiting) break;
        if (!push->is_ack_wanted) (void)condition_wait(&push->urgent, &push->lock, due_ns);
    }
    pthread_mutex_unlock(&push->lock);
    return NULL;
}

struct lane *
push_lane(struct qmq_push *push, uint32_t number)
{
    struct source *source = consumer_source(push->consumer, number);
    struct lane *found = NULL;

    pthread_mutex_lock(&push->lock);
    q_list_for_each(node, &push->lanes) {
        struct lane *lane = q_container_of(node, struct lane, node);
        if (lane->source == source) found = lane;
    }
    if (!found && (found = calloc(1, sizeof(*found)))) {
        found->push = push;
        found->source = source;
        q_list_push_back(&push->lanes, &found->node);
    }
    pthread_mutex_unlock(&push->lock);
    return found;
}

void
push_post(struct qmq_push *push, struct qmq_delivery *delivery)
{
    struct lane *lane = delivery->load->lane;
    bool is_first = lane->acks.count + lane->nacks.count == 0;
    if (is_first) lane->since_ns = client_now_ns(push->client);
    push->decided++;
    deliveries_add(delivery->has_failed ? &lane->nacks : &lane->acks, delivery);
    if (!lane->is_under_way && (is_first || is_urgent(lane))) push_want_acks(push);
}

void
push_want_acks(struct qmq_push *push)
{
    if (!push->is_ack_wanted) pthread_cond_signal(&push->urgent);
    push->is_ack_wanted = true;
}

void
push_lanes_free(struct qmq_push *push)
{
    struct q_list *node;
    while ((node = q_list_pop_front(&push->lanes))) {
        struct lane *lane = q_container_of(node, struct lane, node);
        Q_ASSERT(!lane->is_under_way);
        while (lane->sent_count > 0)
            deliveries_add(&lane->chosen, lane->sent[--lane->sent_count]);
        forget_all(lane, &lane->chosen);
        forget_all(lane, &lane->acks);
        forget_all(lane, &lane->nacks);
        free(lane);
    }
}

static void
forget_all(struct lane *lane, struct deliveries *list)
{
    struct qmq_delivery *delivery;
    while ((delivery = deliveries_take(list))) {
        lane->push->decided--;
        push_forget(lane->push, delivery);
    }
}

/* Do for a lane what can be done. Returns when to look again. Gives the lock away meanwhile. */
static uint64_t
look(struct lane *lane)
{
    struct qmq_push *push = lane->push;

    if (lane->is_under_way && lane->is_answered) take_answer(lane);
    if (lane->is_under_way || push->phase == PUSH_OVER) return UINT64_MAX;
    uint64_t now_ns = client_now_ns(push->client);
    if (now_ns < lane->next_ns) return lane->next_ns;
    uint64_t due_ns = UINT64_MAX;
    bool is_chosen = lane->sent_count + lane->chosen.count > 0;
    if (!is_chosen && !choose(lane, now_ns, &due_ns)) return due_ns;
    send(lane);
    return lane->is_under_way ? UINT64_MAX : lane->next_ns;
}

static void
take_answer(struct lane *lane)
{
    struct qmq_push *push = lane->push;
    lane->is_under_way = false;
    lane->is_answered = false;
    enum q_err err = lane->err;
    uint64_t expired = 0;

    pthread_mutex_unlock(&push->lock);
    if (err == Q_OK)
        err = ack_read(lane->source, lane->is_nack, lane->buffer, &expired);
    else
        q_fault_adopt(&lane->fault);
    if (err == Q_OK)
        on_record(lane, expired);
    else
        not_on_record(lane, err);
    pthread_mutex_lock(&push->lock);
}

/* What goes into the next call; false: nothing before `*due_ns`. */
static bool
choose(struct lane *lane, uint64_t now_ns, uint64_t *due_ns)
{
    if (lane->acks.count + lane->nacks.count == 0) return false;
    /* By turns, and failures are not gathered: somebody may have asked for `at once`. */
    bool takes_nacks = lane->nacks.count > 0 && (!lane->is_nack || lane->acks.count == 0);
    if (!takes_nacks && !is_urgent(lane) && now_ns < lane->since_ns + GATHER_NS) {
        *due_ns = lane->since_ns + GATHER_NS;
        return false;
    }
    lane->is_nack = takes_nacks;
    if (takes_nacks)
        choose_nacks(lane);
    else
        deliveries_append(&lane->chosen, &lane->acks);
    lane->since_ns = now_ns;
    return true;
}

static bool
is_urgent(const struct lane *lane)
{
    const struct qmq_push *push = lane->push;
    bool is_idle = push->info.running == 0 && push->queue.count == 0;
    return lane->nacks.count > 0 || lane->acks.count >= GATHER_MESSAGES || push->is_starved ||
           is_idle || push->phase != PUSH_PULLING;
}

/* Those that say the same as the first. */
static void
choose_nacks(struct lane *lane)
{
    struct deliveries rest = { .first = NULL };
    struct qmq_delivery *delivery;
    uint32_t max = lane->nacks_max > 0 ? lane->nacks_max : LANE_CALL_MAX;
    while ((delivery = deliveries_take(&lane->nacks))) {
        bool is_taken =
            lane->sent_count < max &&
            (lane->sent_count == 0 || is_same_nack(&lane->sent[0]->nack, &delivery->nack));
        if (is_taken)
            lane->sent[lane->sent_count++] = delivery;
        else
            deliveries_add(&rest, delivery);
    }
    lane->nacks = rest;
}

static bool
is_same_nack(const struct qmq_nack_options *a, const struct qmq_nack_options *b)
{
    if (a->with_delay != b->with_delay || (a->with_delay && a->delay_ms != b->delay_ms))
        return false;
    return a->error && b->error ? strcmp(a->error, b->error) == 0 : a->error == b->error;
}

static void
send(struct lane *lane)
{
    struct qmq_push *push = lane->push;
    lane->is_under_way = true; /* its answer may come before we are back */

    pthread_mutex_unlock(&push->lock);
    if (lane->sent_count == 0) take_chosen(lane);
    enum q_err err = submit(lane);
    if (err != Q_OK) not_on_record(lane, err);
    pthread_mutex_lock(&push->lock);
    if (err != Q_OK) lane->is_under_way = false;
}

static void
take_chosen(struct lane *lane)
{
    while (lane->chosen.count > 0 && lane->sent_count < LANE_CALL_MAX)
        lane->sent[lane->sent_count++] = deliveries_take(&lane->chosen);
    sort(lane);
}

static void
sort(struct lane *lane)
{
    for (uint32_t index = 1; index < lane->sent_count; index++) {
        if (compare(&lane->sent[index - 1], &lane->sent[index]) < 0) continue;
        qsort(lane->sent, lane->sent_count, sizeof(lane->sent[0]), compare);
        return;
    }
}

static int
compare(const void *a, const void *b)
{
    uint64_t left = (*(struct qmq_delivery *const *)a)->message->pull_sequence;
    uint64_t right = (*(struct qmq_delivery *const *)b)->message->pull_sequence;
    return (left > right) - (left < right);
}

/* Without the lock, as all that follows unless it says otherwise. */
static enum q_err
submit(struct lane *lane)
{
    Q_TRY(broker_check_link(lane->source->broker, BROKER_CALLS));
    Q_TRY(find_session(lane));

    Qmq__Wire__Range ranges[LANE_CALL_MAX];
    Qmq__Wire__Range *pointers[LANE_CALL_MAX];
    size_t count = 0;
    for (uint32_t index = 0; index < lane->sent_count; index++) {
        uint64_t pull_sequence = lane->sent[index]->message->pull_sequence;
        if (count > 0 && ranges[count - 1].last + 1 == pull_sequence) {
            ranges[count - 1].last = pull_sequence;
            continue;
        }
        qmq__wire__range__init(&ranges[count]);
        ranges[count].first = pull_sequence;
        ranges[count].last = pull_sequence;
        pointers[count] = &ranges[count];
        count++;
    }
    lane->call.net = (struct qnet_request){ .timeout_ms = TRY_TIMEOUT_MS, .done = on_answered };
    const struct qmq_nack_options *nack = lane->is_nack ? &lane->sent[0]->nack : NULL;
    Q_TRY(ack_build(lane->source, pointers, count, lane->session, nack, &lane->call.net.buffer));
    return broker_submit(lane->source->broker, BROKER_CALLS, &lane->call);
}

/* The client's thread joins; here it is only looked at. */
static enum q_err
find_session(struct lane *lane)
{
    struct source *source = lane->source;
    enum q_err err = Q_OK;

    pthread_mutex_lock(&source->consumer->lock);
    bool has_session = source_has_session(source);
    if (!has_session && source->state == SOURCE_REFUSED) {
        q_fault_adopt(&source->fault);
        err = source->err;
    } else if (!has_session) {
        err = Q_FAIL(
            Q_UNAVAILABLE,
            .what = q_text("no session with broker group %s now", source->broker->group));
    }
    lane->session = source->session;
    pthread_mutex_unlock(&source->consumer->lock);
    return err;
}

static void
on_answered(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer)
{
    struct call *call = q_container_of(net, struct call, net);
    struct lane *lane = q_container_of(call, struct lane, call);
    struct qmq_push *push = lane->push;

    pthread_mutex_lock(&push->lock);
    lane->is_answered = true;
    lane->err = err;
    lane->buffer = buffer;
    if (err != Q_OK) lane->fault = *q_fault_last();
    push_want_acks(push);
    pthread_mutex_unlock(&push->lock);
}

static void
on_record(struct lane *lane, uint64_t expired)
{
    struct qmq_push *push = lane->push;
    enum qmq_trouble_kind kind = lane->is_nack ? QMQ_TROUBLE_NACK : QMQ_TROUBLE_ACK;
    uint32_t count = lane->sent_count;
    hooks_count(
        &push->client->hooks, lane->is_nack ? COUNT_nacked : COUNT_acked,
        count - q_min_u64(expired, count));

    pthread_mutex_lock(&push->lock);
    push->info.expired += expired;
    lane->next_ns = 0;
    lane->backoff_ms = 0;
    lane->has_told = false;
    lane->nacks_max = 2 * lane->nacks_max < LANE_CALL_MAX ? 2 * lane->nacks_max : 0;
    pthread_mutex_unlock(&push->lock);
    forget_sent(lane);

    if (expired == 0) return;
    (void)Q_FAIL(
        Q_EXPIRED, .what = q_text(
                       "up to %llu of %u messages were given to another consumer before",
                       (unsigned long long)expired, count));
    push_tell(push, kind, false, expired, NULL);
}

/* With this thread's fault. */
static void
not_on_record(struct lane *lane, enum q_err err)
{
    struct qmq_push *push = lane->push;
    enum qmq_trouble_kind kind = lane->is_nack ? QMQ_TROUBLE_NACK : QMQ_TROUBLE_ACK;
    const struct qmq_nack_options *nack = &lane->sent[0]->nack;
    bool is_lost = is_session_lost(err);
    bool can_pass = is_lost || is_passing(err);
    /* Its delay or text is refused: it fails without. */
    bool is_plain = !lane->is_nack || (!nack->with_delay && !nack->error);
    struct q_fault fault = *q_fault_last();

    pthread_mutex_lock(&push->lock);
    bool is_over = push->phase == PUSH_OVER;
    pthread_mutex_unlock(&push->lock);
    if (!is_over && (!can_pass || !lane->has_told))
        push_tell(push, kind, can_pass, lane->sent_count, NULL);
    lane->has_told = can_pass;

    if (is_lost) {
        struct qmq_consumer *consumer = lane->source->consumer;
        pthread_mutex_lock(&consumer->lock);
        source_lost_session(lane->source, lane->session);
        pthread_mutex_unlock(&consumer->lock);
    }
    if (can_pass || is_over) {
        lane->next_ns = client_now_ns(push->client) + backoff_next(&lane->backoff_ms);
        return;
    }
    if (!is_plain) {
        ask_for_less(lane);
        return;
    }
    pthread_mutex_lock(&push->lock);
    if (push->refusal.err == Q_OK) push->refusal = fault;
    pthread_mutex_unlock(&push->lock);
    forget_sent(lane);
}

/* A delay or text is refused, of one perhaps: they go by halves, and one that is alone without. */
static void
ask_for_less(struct lane *lane)
{
    struct qmq_push *push = lane->push;
    if (lane->sent_count > 1) {
        pthread_mutex_lock(&push->lock);
        lane->nacks_max = lane->sent_count / 2;
        while (lane->sent_count > 0)
            deliveries_put_back(&lane->nacks, lane->sent[--lane->sent_count]);
        pthread_mutex_unlock(&push->lock);
        return;
    }
    struct qmq_nack_options *own = &lane->sent[0]->nack;
    if (own->with_delay) {
        own->with_delay = false;
        return;
    }
    free((char *)own->error);
    own->error = NULL;
}

/* Handlers want the lock, so it is not held for each of them, nor while memory is freed. */
static void
forget_sent(struct lane *lane)
{
    struct qmq_push *push = lane->push;
    uint32_t count = lane->sent_count;
    for (uint32_t index = 0; index < count; index++) {
        free((char *)lane->sent[index]->nack.error);
        free(lane->sent[index]->key_text);
    }

    for (uint32_t first = 0, next; first < count; first = next) {
        struct load *load = lane->sent[first]->load;
        for (next = first; next < count && lane->sent[next]->load == load; next++)
            continue;
        pthread_mutex_lock(&push->lock);
        push->decided -= next - first;
        struct load *ended = push_drop(push, load, next - first);
        pthread_mutex_unlock(&push->lock);
        load_free(ended);
    }
    lane->sent_count = 0;
}

/* With the lock. */
static void
cancel(struct lane *lane)
{
    if (!lane->is_answered) call_cancel(&lane->call);
}
