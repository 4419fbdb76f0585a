/*
 * store/session.c: consumers: join, show life, say goodbye, die.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "planted.h"
#include "store/store.h"

/* A dead consumer without messages is forgotten after this many time-outs. */
enum {
    FORGET_TIMEOUTS = 20
};

static enum q_err join_start(struct qlog_store *store, struct qlog_join *join);
static enum q_err join_group(
    struct qlog_store *store, struct qlog_join *join, struct ql_group **ret_group);
static enum q_err join_filter(
    const struct ql_group *group, const struct qlog_join *join, struct ql_filter_item *ret_filter);
static enum q_err join_consumer(
    struct qlog_store *store, struct ql_group *group, struct qlog_join *join);
static void consumer_watch(struct qlog_store *store, struct ql_consumer *consumer, uint64_t at_ns);
static enum q_err consumer_timeout(struct qlog_store *store, struct ql_consumer *consumer);
static enum q_err consumer_release(
    struct qlog_store *store,
    struct ql_consumer *consumer,
    enum ql_release_reason reason,
    struct qlog_request *request);

/* --- Join. */

void
ql_join_start(struct qlog_store *store, struct qlog_join *join)
{
    enum q_err err = join_start(store, join);
    if (err != Q_OK) ql_request_finish(&join->request, err);
}

static enum q_err
join_start(struct qlog_store *store, struct qlog_join *join)
{
    const struct qlog_consumer *who = &join->who;
    if (who->consumer.size == 0 || who->consumer.size > QLOG_CONSUMER_MAX)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("a consumer id has 1 to %u bytes", (unsigned)QLOG_CONSUMER_MAX));
    if (who->group.size == 0 || who->group.size > QLOG_GROUP_MAX)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("a group's name has 1 to %u bytes", (unsigned)QLOG_GROUP_MAX));
    if (join->tag_count > QBATCH_TAGS_MAX)
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text("a filter has at most %u tags", (unsigned)QBATCH_TAGS_MAX));
    for (uint32_t i = 0; i < join->tag_count; i++)
        if (join->tags[i].size == 0 || join->tags[i].size > QBATCH_TAG_BYTES_MAX)
            return Q_FAIL(Q_INVALID, .what = q_text("a tag of %zu bytes", join->tags[i].size));
    struct ql_group *group;
    Q_TRY(join_group(store, join, &group));
    return join_consumer(store, group, join);
}

/* The group, made when it is not there. A new one begins where the caller says. */
static enum q_err
join_group(struct qlog_store *store, struct qlog_join *join, struct ql_group **ret_group)
{
    struct ql_subject *subject;
    Q_TRY(ql_store_need_subject(store, join->who.subject, &subject));
    struct ql_group *group = ql_store_find_group(store, subject, join->who.group);
    join->group_created = group == NULL;
    if (group != NULL) {
        *ret_group = group;
        return Q_OK;
    }
    if (store->counters.groups >= store->groups_max)
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text("the store holds %u groups already", store->groups_max));
    Q_TRY(ql_store_admit_group(store));
    struct ql_group_record record = {
        .group_id = ql_store_free_group_id(store),
        .subject_id = subject->id,
        .broadcast = join->broadcast,
        .subject = join->who.subject,
        .name = join->who.group,
    };
    if (join->settings != NULL) record.settings = *join->settings;
    Q_TRY(ql_settings_complete(&record.settings));
    Q_TRY(ql_store_start(store, subject, join->start, join->start_at, &record.cursor));
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_group_record_size(&record), &action));
    enum q_err err = ql_store_add_group(store, &record, ret_group);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    if (join->broadcast) ql_group_watch(store, *ret_group, store->now_ns + Q_NS_PER_S);
    ql_group_record_encode(&record, action->record);
    action->group_id = (*ret_group)->id;
    ql_action_append(action, NULL);
    ql_retention_group_went_back(store, subject);
    return Q_OK;
}

/* What a join filters by. A filter that others have, too, has one slot. */
static enum q_err
join_filter(
    const struct ql_group *group, const struct qlog_join *join, struct ql_filter_item *ret_filter)
{
    struct qbatch_filter filter = {
        .tag_count = join->tag_count,
        .mode = join->tags_all ? QBATCH_TAGS_ALL : QBATCH_TAGS_ANY,
    };
    for (uint32_t i = 0; i < join->tag_count; i++)
        filter.tags[i] = join->tags[i];
    *ret_filter = (struct ql_filter_item){
        .slot = ql_filters_find(&group->filters, &filter),
        .filter = filter,
    };
    if (ret_filter->slot < QLOG_FILTERS_MAX) return Q_OK;
    return Q_FAIL(
        Q_TOO_BIG,
        .what = q_text(
            "group \"%s\" has %u different filters already", group->name,
            (unsigned)QLOG_FILTERS_MAX),
        .hint = "one that nobody uses is forgotten after filter.keep; or use another group");
}

static enum q_err
join_consumer(struct qlog_store *store, struct ql_group *group, struct qlog_join *join)
{
    struct ql_consumer *consumer = ql_group_consumer_named(group, join->who.consumer);
    struct ql_join_record record = {
        .group_id = group->id,
        .name = join->who.consumer,
        .next_pull_sequence = ql_store_first_pull(store),
    };
    memcpy(record.token, join->token, sizeof(record.token));
    Q_TRY(join_filter(group, join, &record.filter));
    /* Somebody must be able to take what fills the memory: the first member is always admitted. */
    if (consumer == NULL && ql_filters_live(&group->filters) != 0)
        Q_TRY(ql_store_admit_group(store));
    bool again = false;
    if (consumer != NULL) {
        record.consumer_id = consumer->id;
        again = consumer->session != 0 &&
                memcmp(consumer->token, join->token, sizeof(join->token)) == 0;
    } else {
        record.consumer_id = group->consumer_hint;
        while (ql_group_consumer(group, record.consumer_id) != NULL)
            record.consumer_id++;
        group->consumer_hint = record.consumer_id;
    }
    /* A repeated join of the same session keeps it; anything else ends it and begins another. */
    record.session =
        again ? consumer->session : (store->home->env.generation << 32 | ++store->session_count);

    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_join_record_size(&record), &action));
    enum q_err err = ql_group_apply_join(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    ql_join_record_encode(&record, action->record);
    consumer = ql_group_consumer(group, record.consumer_id);
    if (!again && consumer->parked != NULL)
        ql_pull_unpark(store, consumer->parked, Q_CONSUMER_REPLACED);
    ql_consumer_seen(store, consumer);
    /* A filter that is there again, and those that this consumer leaves. */
    ql_group_watch(store, group, store->now_ns);
    if (group->pending_messages >= group->settings.pending_max) ql_group_stir(store, group);
    uint64_t end = ql_store_visible_end(store, group->subject);
    join->session = record.session;
    join->cursor = group->cursor;
    join->waiting = end > group->cursor ? end - group->cursor : 0;
    join->pending = group->pending_messages;
    join->unacked = consumer->held_messages;
    join->consumer_timeout_ns = store->consumer_timeout_ns;
    ql_action_append(action, &join->request);
    return Q_OK;
}

/* --- Whose session it is, and that it lives. */

enum q_err
ql_store_consumer(
    struct qlog_store *store, const struct qlog_consumer *who, struct ql_consumer **ret_consumer)
{
    struct ql_subject *subject;
    struct ql_group *group = NULL;
    if (ql_index_find(&store->index, who->subject, &subject) == Q_OK)
        group = ql_store_find_group(store, subject, who->group);
    if (group == NULL)
        return Q_FAIL(
            Q_NOT_FOUND,
            .what = q_text(
                "no group \"%.*s\" on \"%.*s\"", (int)who->group.size,
                (const char *)who->group.data, (int)who->subject.size,
                (const char *)who->subject.data),
            .hint = "join first");
    struct ql_consumer *consumer = ql_group_consumer_named(group, who->consumer);
    if (consumer == NULL || consumer->session == 0)
        return Q_FAIL(
            Q_NO_SESSION,
            .what = q_text(
                "consumer \"%.*s\" has no session in group \"%s\"", (int)who->consumer.size,
                (const char *)who->consumer.data, group->name));
    if (consumer->session != who->session && !QL_PLANTED(replaced_pulls))
        return Q_FAIL(
            Q_CONSUMER_REPLACED, .what = q_text(
                                     "consumer \"%s\" of group \"%s\" has joined again since",
                                     consumer->name, group->name));
    *ret_consumer = consumer;
    return Q_OK;
}

uint64_t
ql_store_pull_floor(const struct qlog_store *store)
{
    return QL_PLANTED(pull_floor_missing) ? 0 : store->home->env.generation << 40;
}

uint64_t
ql_store_first_pull(const struct qlog_store *store)
{
    return ql_store_pull_floor(store) + (QL_PLANTED(pulls_again) ? 0 : store->forgotten_pulls);
}

void
ql_store_note_pulls(struct qlog_store *store, const struct ql_consumer *consumer)
{
    uint64_t floor = store->home->env.generation << 40;
    uint64_t next = consumer->next_pull_sequence;
    if (next > floor) store->forgotten_pulls = q_max_u64(store->forgotten_pulls, next - floor);
}

uint64_t
ql_consumer_next(const struct qlog_store *store, const struct ql_consumer *consumer)
{
    return q_max_u64(consumer->next_pull_sequence, ql_store_pull_floor(store));
}

void
ql_consumer_seen(struct qlog_store *store, struct ql_consumer *consumer)
{
    uint64_t end_ns = store->now_ns + store->consumer_timeout_ns;
    consumer->last_seen_ns = store->now_ns;
    /* One that was dead is watched for when it is to be forgotten, which is far later. */
    if (!QL_PLANTED(dies_late) && q_heap_node_is_linked(&consumer->deadline) &&
        consumer->deadline.key > end_ns)
        q_heap_remove(&store->consumer_deadlines, &consumer->deadline);
    if (!q_heap_node_is_linked(&consumer->deadline)) consumer_watch(store, consumer, end_ns);
}

static void
consumer_watch(struct qlog_store *store, struct ql_consumer *consumer, uint64_t at_ns)
{
    /* Out of memory: it is watched again from its next sign of life on. */
    enum q_err err = q_heap_push(&store->consumer_deadlines, &consumer->deadline, at_ns);
    (void)err;
}

void
ql_consumers_expire(struct qlog_store *store)
{
    for (;;) {
        struct q_heap_node *node = q_heap_first(&store->consumer_deadlines);
        if (node == NULL || node->key > store->now_ns) return;
        struct ql_consumer *consumer = q_container_of(node, struct ql_consumer, deadline);
        q_heap_remove(&store->consumer_deadlines, node);
        bool dead = consumer->session == 0;
        /* Whoever waits for an answer lives; a connection that is lost takes its pulls along. */
        if (consumer->parked != NULL) consumer->last_seen_ns = store->now_ns;
        uint64_t due =
            consumer->last_seen_ns + store->consumer_timeout_ns * (dead ? FORGET_TIMEOUTS : 1);
        if (due > store->now_ns) {
            consumer_watch(store, consumer, due);
            continue;
        }
        if (consumer->parked != NULL) ql_pull_unpark(store, consumer->parked, Q_NO_SESSION);
        enum q_err err =
            consumer_release(store, consumer, dead ? QL_RELEASE_FORGOTTEN : QL_RELEASE_DIED, NULL);
        /* Dead now: look again when it is to be forgotten. Refused: try again in a while. */
        if (!dead || err != Q_OK)
            consumer_watch(store, consumer, store->now_ns + store->consumer_timeout_ns);
    }
}

static enum q_err
consumer_release(
    struct qlog_store *store,
    struct ql_consumer *consumer,
    enum ql_release_reason reason,
    struct qlog_request *request)
{
    struct ql_group *group = consumer->group;
    struct ql_release_record record = {
        .group_id = group->id,
        .consumer_id = consumer->id,
        .reason = (uint8_t)reason,
    };
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_release_record_size(), &action));
    uint64_t released = consumer->held_messages;
    q_heap_remove(&store->consumer_timeouts, &consumer->timeout);
    if (reason == QL_RELEASE_FORGOTTEN) ql_store_note_pulls(store, consumer);
    if (reason == QL_RELEASE_FORGOTTEN)
        group->consumer_hint = (uint32_t)q_min_u64(group->consumer_hint, consumer->id);
    enum q_err err = ql_group_apply_release(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    ql_release_record_encode(&record, action->record);
    store->counters.released += released;
    ql_action_append(action, request);
    /* Its filter may be without members now, and messages wait for others. */
    ql_group_watch(store, group, store->now_ns);
    ql_group_watch_pending(store, group);
    /* With nothing released, too: what only this one took makes room in a full pending set. */
    ql_group_try(store, group);
    return Q_OK;
}

void
ql_consumer_time(struct qlog_store *store, struct ql_consumer *consumer, uint64_t until_ms)
{
    uint64_t at_ns = ql_store_ns_of(store, until_ms);
    if (q_heap_node_is_linked(&consumer->timeout)) {
        if (consumer->timeout.key <= at_ns) return;
        q_heap_remove(&store->consumer_timeouts, &consumer->timeout);
    }
    /* Out of memory: it is timed with its next pull. */
    (void)!q_heap_push(&store->consumer_timeouts, &consumer->timeout, at_ns);
}

void
ql_timeouts_expire(struct qlog_store *store)
{
    for (;;) {
        struct q_heap_node *node = q_heap_first(&store->consumer_timeouts);
        if (node == NULL || node->key > store->now_ns) return;
        struct ql_consumer *consumer = q_container_of(node, struct ql_consumer, timeout);
        q_heap_remove(&store->consumer_timeouts, node);
        uint64_t next_ms = ql_consumer_next_timeout(consumer);
        if (next_ms != UINT64_MAX && next_ms <= store->wall_ms) {
            /* Refused: again in a while. */
            if (consumer_timeout(store, consumer) != Q_OK)
                (void)!q_heap_push(
                    &store->consumer_timeouts, &consumer->timeout, store->now_ns + Q_NS_PER_S);
            next_ms = ql_consumer_next_timeout(consumer);
        }
        if (next_ms != UINT64_MAX && !q_heap_node_is_linked(&consumer->timeout))
            ql_consumer_time(store, consumer, next_ms);
    }
}

static enum q_err
consumer_timeout(struct qlog_store *store, struct ql_consumer *consumer)
{
    struct ql_group *group = consumer->group;
    struct ql_timeout_record record = {
        .group_id = group->id,
        .consumer_id = consumer->id,
        .now_ms = store->wall_ms,
    };
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_timeout_record_size(), &action));
    uint64_t held = consumer->held_messages;
    enum q_err err = ql_group_apply_timeout(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    ql_timeout_record_encode(&record, action->record);
    store->counters.timed_out += held - consumer->held_messages;
    ql_action_append(action, NULL);
    ql_group_watch_pending(store, group);
    ql_group_try(store, group);
    return Q_OK;
}

/* --- Keep alive, leave. */

void
ql_keep_alive_start(struct qlog_store *store, struct qlog_session *session)
{
    struct ql_consumer *consumer;
    enum q_err err = ql_store_consumer(store, &session->who, &consumer);
    if (err == Q_OK) ql_consumer_seen(store, consumer);
    ql_request_finish(&session->request, err);
}

void
ql_leave_start(struct qlog_store *store, struct qlog_session *session)
{
    struct ql_consumer *consumer;
    enum q_err err = ql_store_consumer(store, &session->who, &consumer);
    if (err == Q_OK) {
        if (consumer->parked != NULL) ql_pull_unpark(store, consumer->parked, Q_NO_SESSION);
        q_heap_remove(&store->consumer_deadlines, &consumer->deadline);
        err = consumer_release(store, consumer, QL_RELEASE_LEFT, &session->request);
        if (err == Q_OK) {
            /* Forgotten like the dead: its id may come back, and ack late. */
            consumer_watch(store, consumer, store->now_ns + store->consumer_timeout_ns);
            return;
        }
        ql_consumer_seen(store, consumer);
    }
    ql_request_finish(&session->request, err);
}
