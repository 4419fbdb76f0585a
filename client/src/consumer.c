/*
 * consumer.c: what a program sees of a consumer.
 */
#include "consumer.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <qbase/assert.h>

enum {
    PULL_BYTES_DEFAULT = 256 * 1024,
    MESSAGES_DEFAULT = 512,
    ROUTE_TIMEOUT_MS = 5 * 1000,
    TAGS_MAX = 10,
    /* A pull that would be parked longer than its caller waits is cancelled, with some margin. */
    PARK_MARGIN_NS = 50 * Q_NS_PER_MS,
    /* A pull at most once is never cancelled: so it must not be parked for long. */
    ONCE_WAIT_NS = 1000 * Q_NS_PER_MS,
    /* How long a source that has not failed may take to answer after the wait is over. */
    GRACE_NS = 6 * (uint64_t)Q_NS_PER_S,
};

static enum q_err consumer_new(
    struct qmq_client *client,
    const struct qmq_consumer_options *options,
    struct qmq_consumer **ret_consumer);
static enum q_err check_options(const struct qmq_consumer_options *options);
static enum q_err fill(struct qmq_consumer *consumer, const struct qmq_consumer_options *options);
static enum q_err join_all(struct qmq_consumer *consumer, uint64_t until_ns);
static enum q_err find_sources(struct qmq_consumer *consumer, uint64_t timeout_ms);
static enum q_err add_sources(struct qmq_consumer *consumer, const struct route *route);
static enum q_err several_sequences(const char *subject, uint32_t count);
static uint64_t tick(struct member *member, uint64_t now_ns);
static enum q_err wait_joined(struct qmq_consumer *consumer, uint64_t until_ns);
static enum q_err pull(
    struct qmq_consumer *consumer, uint64_t wait_until_ns, struct qmq_batch **ret_batch);
static enum q_err pull_stopped(struct qmq_consumer *consumer, struct qmq_batch **ret_batch);
static enum q_err find_refused(struct qmq_consumer *consumer);
static uint64_t ask_sources(struct qmq_consumer *consumer, uint64_t now_ns, uint64_t wait_until_ns);
static bool is_asked_out(struct qmq_consumer *consumer, uint64_t now_ns, uint64_t wait_until_ns);
static enum q_err nothing(struct qmq_consumer *consumer);
static void consumer_free(struct qmq_consumer *consumer);

int
qmq_consumer_new(
    struct qmq_client *client,
    const struct qmq_consumer_options *options,
    struct qmq_consumer **ret_consumer)
{
    return consumer_new(client, options, ret_consumer);
}

static enum q_err
consumer_new(
    struct qmq_client *client,
    const struct qmq_consumer_options *options,
    struct qmq_consumer **ret_consumer)
{
    Q_TRY(client_check(client));
    Q_TRY(check_options(options));

    struct qmq_consumer *consumer = calloc(1, sizeof(*consumer));
    if (!consumer) return Q_FAIL(Q_E_NOMEM);
    consumer->member.tick = tick;
    consumer->client = client;
    consumer->event_fd = -1;
    pthread_mutex_init(&consumer->lock, NULL);
    condition_init(&consumer->changed);
    q_list_init(&consumer->sources);
    enum q_err err = fill(consumer, options);
    if (err != Q_OK) {
        consumer_free(consumer);
        return err;
    }

    client_join(client, &consumer->member);
    uint64_t until_ns = client_now_ns(client) + client->timeout_ms * (uint64_t)Q_NS_PER_MS;
    err = join_all(consumer, until_ns);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        qmq_consumer_free(consumer);
        q_fault_adopt(&fault);
        return err;
    }
    *ret_consumer = consumer;
    return Q_OK;
}

static enum q_err
check_options(const struct qmq_consumer_options *options)
{
    if (!options->subject || (!options->group && !options->broadcast))
        return Q_FAIL(Q_INVALID, .what = "a consumer needs a subject and a group");
    if (options->group && options->broadcast)
        return Q_FAIL(
            Q_INVALID, .what = "a broadcast consumer has a group of its own",
            .hint = "leave the group out; the consumer's id is its name");
    Q_TRY(qproto_check_read_subject(options->subject));
    if (options->group) Q_TRY(qproto_check_name("group", options->group, QPROTO_GROUP_MAX));
    if (options->broker_group)
        Q_TRY(qproto_check_name("broker group", options->broker_group, QPROTO_GROUP_MAX));
    if ((unsigned)options->start > QMQ_START_SEQUENCE)
        return Q_FAIL(Q_INVALID, .what = q_text("there is no start %u", (unsigned)options->start));
    if (options->consumer)
        Q_TRY(qproto_check_name("consumer id", options->consumer, QPROTO_CONSUMER_MAX));
    if (options->tag_count > TAGS_MAX)
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text("%zu tags, at most %d fit", options->tag_count, TAGS_MAX));
    return Q_OK;
}

static enum q_err
fill(struct qmq_consumer *consumer, const struct qmq_consumer_options *options)
{
    memcpy(consumer->subject, options->subject, strlen(options->subject));
    if (options->consumer) {
        memcpy(consumer->name, options->consumer, strlen(options->consumer));
    } else {
        uint64_t chance;
        random_bytes(&chance, sizeof(chance));
        (void)snprintf(
            consumer->name, sizeof(consumer->name), "c-%016llx", (unsigned long long)chance);
    }

    const char *group = options->broadcast ? consumer->name : options->group;
    memcpy(consumer->group, group, strlen(group));
    if (options->broker_group)
        memcpy(consumer->broker_group, options->broker_group, strlen(options->broker_group));

    consumer->tags_all = options->tags_all;
    consumer->broadcast = options->broadcast;
    consumer->start = options->start;
    if (consumer->start == QMQ_START_DEFAULT)
        consumer->start = options->broadcast ? QMQ_START_LATEST : QMQ_START_EARLIEST;
    consumer->start_at = options->start_at;
    consumer->at_most_once = options->at_most_once;
    consumer->invisible_ms = options->invisible_ms;
    consumer->pull_messages_min = options->pull_messages_min;
    consumer->prefetch = !options->no_prefetch && !options->at_most_once;
    consumer->messages_max = MESSAGES_DEFAULT;
    consumer->pull_bytes_max =
        options->pull_bytes_max ? options->pull_bytes_max : PULL_BYTES_DEFAULT;
    consumer->tags = calloc(options->tag_count + 1, sizeof(char *));
    if (!consumer->tags) return Q_FAIL(Q_E_NOMEM);
    for (size_t index = 0; index < options->tag_count; index++) {
        consumer->tags[index] = strdup(options->tags[index]);
        if (!consumer->tags[index]) return Q_FAIL(Q_E_NOMEM);
        consumer->tag_count++;
    }
    return Q_OK;
}

/* A route may take a moment to appear: a broker that has just started registers itself. */
static enum q_err
join_all(struct qmq_consumer *consumer, uint64_t until_ns)
{
    uint32_t backoff_ms = 0;
    enum q_err err;

    pthread_mutex_lock(&consumer->lock);
    consumer->route_changes = client_route_changes(consumer->client);
    for (;;) {
        uint64_t now_ns = client_now_ns(consumer->client);
        uint64_t rest_ms = (until_ns - q_min_u64(now_ns, until_ns)) / Q_NS_PER_MS;
        err = find_sources(consumer, q_min_u64(rest_ms + 1, ROUTE_TIMEOUT_MS));
        if (err == Q_OK || !is_passing(err) || rest_ms == 0) break;
        uint64_t pause_ns = now_ns + backoff_next(&backoff_ms);
        while (condition_wait(&consumer->changed, &consumer->lock, pause_ns))
            continue;
    }
    client_wake(consumer->client);
    if (err == Q_OK) err = wait_joined(consumer, until_ns);
    pthread_mutex_unlock(&consumer->lock);
    return err;
}

/* Gives the lock away while it asks meta. */
static enum q_err
find_sources(struct qmq_consumer *consumer, uint64_t timeout_ms)
{
    char subject[QPROTO_SUBJECT_MAX + 1];
    (void)qproto_routed_subject(consumer->subject, subject);
    struct route route;

    pthread_mutex_unlock(&consumer->lock);
    enum q_err err = route_find(consumer->client, subject, timeout_ms, &route);
    pthread_mutex_lock(&consumer->lock);

    const char *only = consumer->broker_group[0] ? consumer->broker_group : NULL;
    if (err == Q_OK) err = route_narrow(&route, only);
    if (err == Q_OK && consumer->start == QMQ_START_SEQUENCE && route.count > 1)
        err = several_sequences(consumer->subject, route.count);
    return err == Q_OK ? add_sources(consumer, &route) : err;
}

static enum q_err
add_sources(struct qmq_consumer *consumer, const struct route *route)
{
    for (uint32_t index = 0; index < route->count; index++) {
        bool is_known = false;
        q_list_for_each(node, &consumer->sources) {
            struct source *source = q_container_of(node, struct source, node);
            is_known |= source->broker == route->brokers[index];
        }
        if (!is_known) Q_TRY(source_new(consumer, route->brokers[index]));
    }
    return Q_OK;
}

static enum q_err
several_sequences(const char *subject, uint32_t count)
{
    return Q_FAIL(
        Q_INVALID,
        .what = q_text(
            "\"%s\" is on %u broker groups, and each counts its own sequences", subject, count),
        .hint = "name the broker group, or start at a time");
}

static uint64_t
tick(struct member *member, uint64_t now_ns)
{
    struct qmq_consumer *consumer = q_container_of(member, struct qmq_consumer, member);
    uint64_t due_ns = UINT64_MAX;

    pthread_mutex_lock(&consumer->lock);
    if (!consumer->is_leaving) {
        q_list_for_each(node, &consumer->sources) {
            struct source *source = q_container_of(node, struct source, node);
            due_ns = q_min_u64(due_ns, source_tick(source, now_ns));
        }
        due_ns = q_min_u64(due_ns, consumer_ask_ahead(consumer, now_ns));
    }
    pthread_mutex_unlock(&consumer->lock);
    return due_ns;
}

/* Until all have joined, or one has and the others have failed, or time is over. */
static enum q_err
wait_joined(struct qmq_consumer *consumer, uint64_t until_ns)
{
    for (;;) {
        bool is_in_time = condition_wait(&consumer->changed, &consumer->lock, until_ns);
        uint32_t joined = 0;
        uint32_t undecided = 0;
        const struct source *failed = NULL;
        q_list_for_each(node, &consumer->sources) {
            const struct source *source = q_container_of(node, struct source, node);
            if (source->state == SOURCE_REFUSED) {
                q_fault_adopt(&source->fault);
                return source->err;
            }
            joined += source->state == SOURCE_READY;
            undecided += source->state != SOURCE_READY && source->err == Q_OK;
            if (source->err != Q_OK) failed = source;
        }

        if (joined > 0 && (undecided == 0 || !is_in_time)) return Q_OK;
        if (is_in_time) continue;
        if (!failed)
            return Q_FAIL(Q_TIMED_OUT, .what = q_text("no broker has answered a join in time"));
        q_fault_adopt(&failed->fault);
        return failed->err;
    }
}

int
qmq_pull(
    struct qmq_consumer *consumer,
    uint32_t messages_max,
    uint32_t wait_ms,
    struct qmq_batch **ret_batch)
{
    enum q_err here = client_check(consumer->client);
    if (here != Q_OK) return here;
    uint64_t wait_until_ns = client_now_ns(consumer->client) + wait_ms * (uint64_t)Q_NS_PER_MS;

    pthread_mutex_lock(&consumer->lock);
    consumer_set_pull(consumer, messages_max);
    enum q_err err = pull(consumer, wait_until_ns, ret_batch);
    pthread_mutex_unlock(&consumer->lock);
    return err;
}

void
consumer_set_pull(struct qmq_consumer *consumer, uint32_t messages_max)
{
    consumer->messages_max = messages_max ? messages_max : MESSAGES_DEFAULT;
    consumer->round++;
}

static enum q_err
pull(struct qmq_consumer *consumer, uint64_t wait_until_ns, struct qmq_batch **ret_batch)
{
    for (;;) {
        if (consumer->is_stopping) return pull_stopped(consumer, ret_batch);
        consumer_look_for_sources(consumer);
        *ret_batch = consumer_take_fetched(consumer);
        if (*ret_batch) return Q_OK;
        Q_TRY(find_refused(consumer));

        uint64_t now_ns = client_now_ns(consumer->client);
        uint64_t due_ns = ask_sources(consumer, now_ns, wait_until_ns);
        if (is_asked_out(consumer, now_ns, wait_until_ns)) return nothing(consumer);
        (void)condition_wait(&consumer->changed, &consumer->lock, due_ns);
    }
}

/* At most once, what the broker has given or is giving would be lost: it comes first. */
static enum q_err
pull_stopped(struct qmq_consumer *consumer, struct qmq_batch **ret_batch)
{
    while (consumer->at_most_once) {
        *ret_batch = consumer_take_fetched(consumer);
        if (*ret_batch) return Q_OK;
        bool is_pulling = false;
        q_list_for_each(node, &consumer->sources) {
            is_pulling |= q_container_of(node, struct source, node)->state == SOURCE_PULLING;
        }
        if (!is_pulling) break;
        pthread_cond_wait(&consumer->changed, &consumer->lock);
    }
    return consumer_stopped();
}

/* The client's watch tells. Gone ones fail by themselves. */
void
consumer_look_for_sources(struct qmq_consumer *consumer)
{
    uint64_t changes = client_route_changes(consumer->client);
    if (changes == consumer->route_changes) return;
    consumer->route_changes = changes;
    if (find_sources(consumer, ROUTE_TIMEOUT_MS) == Q_OK) client_wake(consumer->client);
}

struct qmq_batch *
consumer_take_fetched(struct qmq_consumer *consumer)
{
    q_list_for_each(node, &consumer->sources) {
        struct source *source = q_container_of(node, struct source, node);
        struct qmq_batch *batch = source->fetched;
        if (!batch) continue;

        source->fetched = NULL;
        /* To the end, so that all get their turn. */
        q_list_remove(&source->node);
        q_list_push_back(&consumer->sources, &source->node);
        if (consumer->prefetch && source->state == SOURCE_READY) source_pull(source, 0);
        return batch;
    }
    return NULL;
}

static enum q_err
find_refused(struct qmq_consumer *consumer)
{
    q_list_for_each(node, &consumer->sources) {
        const struct source *source = q_container_of(node, struct source, node);
        if (source->state != SOURCE_REFUSED) continue;
        q_fault_adopt(&source->fault);
        return source->err;
    }
    return Q_OK;
}

/* Have a pull under way wherever there may be something. Returns when to look again. */
static uint64_t
ask_sources(struct qmq_consumer *consumer, uint64_t now_ns, uint64_t wait_until_ns)
{
    uint64_t due_ns = now_ns < wait_until_ns ? wait_until_ns : wait_until_ns + GRACE_NS;

    q_list_for_each(node, &consumer->sources) {
        struct source *source = q_container_of(node, struct source, node);
        bool is_parked_longer = source->state == SOURCE_PULLING &&
                                source->pulling_until_ns > wait_until_ns + PARK_MARGIN_NS;
        /* What a cancelled pull was handed comes again; at most once it does not. */
        if (is_parked_longer && !consumer->at_most_once) source_shorten(source);
        if (source->state != SOURCE_READY) continue;
        if (source->answered_in == consumer->round && now_ns >= wait_until_ns) continue;
        if (now_ns < source->next_ns) {
            due_ns = q_min_u64(due_ns, source->next_ns);
            continue;
        }
        uint64_t wait_ns = wait_until_ns - q_min_u64(now_ns, wait_until_ns);
        if (consumer->at_most_once) wait_ns = q_min_u64(wait_ns, ONCE_WAIT_NS);
        source_pull(source, wait_ns);
        if (source->state == SOURCE_READY) due_ns = q_min_u64(due_ns, source->next_ns);
    }
    return due_ns;
}

/*
 * The wait is over, and every source has said that it has nothing, or has failed and not worked
 * since, or has had its grace.
 */
static bool
is_asked_out(struct qmq_consumer *consumer, uint64_t now_ns, uint64_t wait_until_ns)
{
    if (now_ns < wait_until_ns) return false;
    if (now_ns >= wait_until_ns + GRACE_NS) return true;
    q_list_for_each(node, &consumer->sources) {
        const struct source *source = q_container_of(node, struct source, node);
        bool is_hopeful = source->err == Q_OK || is_session_lost(source->err);
        if (source->answered_in != consumer->round && is_hopeful) return false;
    }
    return true;
}

/* AGAIN when somebody has said so in this round, else why nobody has. */
static enum q_err
nothing(struct qmq_consumer *consumer)
{
    const struct source *failed = NULL;
    q_list_for_each(node, &consumer->sources) {
        const struct source *source = q_container_of(node, struct source, node);
        if (source->answered_in == consumer->round) return Q_FAIL(Q_AGAIN);
        if (source->err != Q_OK) failed = source;
    }
    if (!failed) return Q_FAIL(Q_TIMED_OUT, .what = "no broker has answered a pull in time");
    q_fault_adopt(&failed->fault);
    return failed->err;
}

enum q_err
consumer_stopped(void)
{
    return Q_FAIL(Q_STOPPING, .what = "the consumer was stopped", .hint = "");
}

void
qmq_consumer_stop(struct qmq_consumer *consumer)
{
    if (!client_is_here(consumer->client)) return;
    pthread_mutex_lock(&consumer->lock);
    consumer->is_stopping = true;
    event_raise(consumer->event_fd);
    pthread_cond_broadcast(&consumer->changed);
    pthread_mutex_unlock(&consumer->lock);
}

void
qmq_consumer_info(struct qmq_consumer *consumer, struct qmq_consumer_info *ret_info)
{
    struct qmq_consumer_info info = { .consumer = consumer->name };
    *ret_info = info;
    if (!client_is_here(consumer->client)) return;

    pthread_mutex_lock(&consumer->lock);
    q_list_for_each(node, &consumer->sources) {
        const struct source *source = q_container_of(node, struct source, node);
        info.cursor += source->cursor;
        info.waiting += source->waiting;
        info.pending += source->pending;
        info.unacked += source->unacked;
        info.fetched += source->fetched ? qmq_batch_count(source->fetched) : 0;
        info.sources++;
        info.sources_away += source->err != Q_OK && source->err != Q_WINDOW_FULL;
        info.group_created |= source->group_created;
        if (source->held != QMQ_HELD_NOT) info.held = source->held;
    }
    pthread_mutex_unlock(&consumer->lock);
    *ret_info = info;
}

void
qmq_consumer_free(struct qmq_consumer *consumer)
{
    if (!consumer || !client_is_here(consumer->client)) return;
    client_part(consumer->client, &consumer->member);

    pthread_mutex_lock(&consumer->lock);
    consumer->is_leaving = true;
    q_list_for_each(node, &consumer->sources) {
        struct source *source = q_container_of(node, struct source, node);
        source_cancel(source);
        while (source_has_call(source))
            pthread_cond_wait(&consumer->changed, &consumer->lock);
    }
    pthread_mutex_unlock(&consumer->lock);

    q_list_for_each(node, &consumer->sources) {
        source_leave(q_container_of(node, struct source, node));
    }
    consumer_free(consumer);
}

static void
consumer_free(struct qmq_consumer *consumer)
{
    struct q_list *node;
    while ((node = q_list_pop_front(&consumer->sources)))
        source_free(q_container_of(node, struct source, node));
    for (uint32_t index = 0; index < consumer->tag_count; index++)
        free(consumer->tags[index]);
    free(consumer->tags);
    if (consumer->event_fd >= 0) (void)close(consumer->event_fd);
    pthread_cond_destroy(&consumer->changed);
    pthread_mutex_destroy(&consumer->lock);
    free(consumer);
}
