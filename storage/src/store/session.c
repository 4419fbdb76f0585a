/*
 * store/session.c: consumers: join, acknowledge, show life, say goodbye, die.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "store/store.h"

/* A dead consumer without messages is forgotten after this many time-outs. */
enum {
    FORGET_TIMEOUTS = 20
};

static enum q_err join_start(struct qlog_store *store, struct qlog_join *join);
static enum q_err join_group(
    struct qlog_store *store, struct qlog_join *join, struct ql_group **ret_group);
static enum q_err join_check_filter(
    const struct ql_group *group, const struct qbatch_filter *filter);
static enum q_err join_consumer(
    struct qlog_store *store, struct ql_group *group, struct qlog_join *join);
static enum q_err ack_start(struct qlog_store *store, struct qlog_ack *ack);
static void consumer_watch(struct qlog_store *store, struct ql_consumer *consumer, uint64_t at_ns);
static enum q_err consumer_release(
    struct qlog_store *store,
    struct ql_consumer *consumer,
    enum ql_release_reason reason,
    struct qlog_request *request);

/* --- Groups. */

struct group_key {
    uint32_t subject_id;
    struct q_bytes name;
};

static uint64_t
group_hash(const struct group_key *key)
{
    /* The subject's part is spread by an odd constant, so that one group name on many subjects
     * does not meet itself. */
    return ql_hash(key->name.data, key->name.size) ^
           ((uint64_t)key->subject_id + 1) * 0x9e3779b97f4a7c15u;
}

static bool
group_equal(const void *key, uint32_t value, const void *context)
{
    const struct group_key *wanted = key;
    const struct ql_group *group = ql_store_group(context, value);
    return group->subject->id == wanted->subject_id &&
           q_bytes_equal(q_bytes_from(group->name, group->name_size), wanted->name);
}

struct ql_group *
ql_store_group(const struct qlog_store *store, uint32_t id)
{
    return id < store->group_count ? store->groups[id] : NULL;
}

static struct ql_group *
store_find_group(
    const struct qlog_store *store, const struct ql_subject *subject, struct q_bytes name)
{
    struct group_key key = { .subject_id = subject->id, .name = name };
    uint32_t id;
    if (!q_map_get(&store->groups_by_name, group_hash(&key), group_equal, &key, store, &id))
        return NULL;
    return ql_store_group(store, id);
}

enum q_err
ql_store_add_group(
    struct qlog_store *store, const struct ql_group_record *record, struct ql_group **ret_group)
{
    struct ql_subject *subject = ql_index_get(&store->index, record->subject_id);
    if (subject == NULL || record->group_id >= store->groups_max ||
        ql_store_group(store, record->group_id) != NULL ||
        store_find_group(store, subject, record->name) != NULL)
        return Q_FAIL(
            Q_E_CORRUPT, .what = q_text("GROUP %u contradicts what is known", record->group_id));
    if (record->group_id >= store->group_capacity) {
        uint32_t capacity = store->group_capacity == 0 ? 16 : store->group_capacity;
        while (capacity <= record->group_id)
            capacity *= 2;
        struct ql_group **groups = realloc(store->groups, capacity * sizeof(struct ql_group *));
        if (groups == NULL) return Q_FAIL(Q_E_NOMEM, .what = "table of groups");
        store->groups = groups;
        store->group_capacity = capacity;
    }
    struct ql_group *group;
    Q_TRY(ql_group_new(record, subject, &group));
    struct group_key key = { .subject_id = subject->id, .name = record->name };
    enum q_err err = q_map_put(&store->groups_by_name, group_hash(&key), record->group_id);
    if (err != Q_OK) {
        ql_group_free(group);
        return err;
    }
    while (store->group_count <= record->group_id)
        store->groups[store->group_count++] = NULL;
    store->groups[record->group_id] = group;
    q_list_push_back(&subject->groups, &group->subject_link);
    store->counters.groups++;
    *ret_group = group;
    return Q_OK;
}

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
    struct ql_group *group;
    Q_TRY(join_group(store, join, &group));
    return join_consumer(store, group, join);
}

/* The group, made when it is not there. A new one begins where the caller says. */
static enum q_err
join_group(struct qlog_store *store, struct qlog_join *join, struct ql_group **ret_group)
{
    struct qbatch_filter filter = {
        .tag_count = join->tag_count,
        .mode = join->tags_all ? QBATCH_TAGS_ALL : QBATCH_TAGS_ANY,
    };
    for (uint32_t i = 0; i < join->tag_count; i++) {
        if (join->tags[i].size == 0 || join->tags[i].size > QBATCH_TAG_BYTES_MAX)
            return Q_FAIL(Q_INVALID, .what = q_text("a tag of %zu bytes", join->tags[i].size));
        filter.tags[i] = join->tags[i];
    }
    struct ql_subject *subject;
    Q_TRY(ql_store_need_subject(store, join->who.subject, &subject));
    struct ql_group *group = store_find_group(store, subject, join->who.group);
    join->group_created = group == NULL;
    if (group != NULL) {
        *ret_group = group;
        return join_check_filter(group, &filter);
    }
    if (store->group_count >= store->groups_max)
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text("the store holds %u groups already", store->group_count));
    struct ql_entry entry;
    enum q_err found = ql_index_entry(&store->index, subject, 0, &entry);
    if (found < Q_OK) return found;
    uint64_t first = found == Q_OK ? entry.first_sequence : subject->next_sequence;
    struct ql_group_record record = {
        .group_id = store->group_count,
        .subject_id = subject->id,
        .cursor = join->start == QLOG_START_LATEST ? ql_store_visible_end(store, subject) : first,
        .subject = join->who.subject,
        .name = join->who.group,
        .filter = filter,
    };
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_group_record_size(&record), &action));
    enum q_err err = ql_store_add_group(store, &record, ret_group);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    ql_group_record_encode(&record, action->record);
    action->group = *ret_group;
    ql_action_append(action, NULL);
    ql_retention_group_went_back(store, subject);
    return Q_OK;
}

/*
 * All members of a group take the same messages. Members with filters of their own come with the
 * consumption issue; until then a second filter is refused, since what one member skips would be
 * lost to the other.
 */
static enum q_err
join_check_filter(const struct ql_group *group, const struct qbatch_filter *filter)
{
    if (ql_filter_equal(&group->filter, filter)) return Q_OK;
    return Q_FAIL(
        Q_FILTER_DIFFERS,
        .what = q_text(
            "group \"%s\" consumes \"%s\" with %u tag%s%s%.*s, this consumer asks for %u",
            group->name, group->subject->name, group->filter.tag_count,
            group->filter.tag_count == 1 ? "" : "s", group->filter.tag_count > 0 ? ", first " : "",
            group->filter.tag_count > 0 ? (int)group->filter.tags[0].size : 0,
            group->filter.tag_count > 0 ? (const char *)group->filter.tags[0].data : "",
            filter->tag_count));
}

static enum q_err
join_consumer(struct qlog_store *store, struct ql_group *group, struct qlog_join *join)
{
    struct ql_consumer *consumer = ql_group_consumer_named(group, join->who.consumer);
    struct ql_join_record record = {
        .group_id = group->id,
        .name = join->who.consumer,
        .next_pull_sequence = store->home->env.generation << 40,
    };
    memcpy(record.token, join->token, sizeof(record.token));
    bool again = false;
    if (consumer != NULL) {
        record.consumer_id = consumer->id;
        again = consumer->session != 0 &&
                memcmp(consumer->token, join->token, sizeof(join->token)) == 0;
    } else {
        while (ql_group_consumer(group, record.consumer_id) != NULL)
            record.consumer_id++;
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
        group = store_find_group(store, subject, who->group);
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
    if (consumer->session != who->session)
        return Q_FAIL(
            Q_CONSUMER_REPLACED, .what = q_text(
                                     "consumer \"%s\" of group \"%s\" has joined again since",
                                     consumer->name, group->name));
    *ret_consumer = consumer;
    return Q_OK;
}

void
ql_consumer_seen(struct qlog_store *store, struct ql_consumer *consumer)
{
    consumer->last_seen_ns = store->now_ns;
    if (!q_heap_node_is_linked(&consumer->deadline))
        consumer_watch(store, consumer, store->now_ns + store->consumer_timeout_ns);
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
    enum q_err err = ql_group_apply_release(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    ql_release_record_encode(&record, action->record);
    store->counters.released += released;
    ql_action_append(action, request);
    if (released > 0) ql_group_try(store, group);
    return Q_OK;
}

/* --- Keep alive, leave, ack. */

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

void
ql_ack_start(struct qlog_store *store, struct qlog_ack *ack)
{
    enum q_err err = ack_start(store, ack);
    if (err != Q_OK) ql_request_finish(&ack->request, err);
}

static enum q_err
ack_start(struct qlog_store *store, struct qlog_ack *ack)
{
    struct ql_consumer *consumer;
    Q_TRY(ql_store_consumer(store, &ack->who, &consumer));
    ql_consumer_seen(store, consumer);
    /* Each costs a look at the window, and late ones at the group's pending set. */
    enum {
        RANGES_MAX = 4096
    };
    if (ack->range_count == 0 || ack->range_count > RANGES_MAX)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text(
                "an ack has 1 to %u ranges, this one %u", (unsigned)RANGES_MAX, ack->range_count));
    ack->expired_count = 0;
    for (uint32_t i = 0; i < ack->range_count; i++) {
        bool late;
        Q_TRY(ql_consumer_check_ack(consumer, &ack->ranges[i], &late));
    }

    struct ql_ack_record record = {
        .group_id = consumer->group->id,
        .consumer_id = consumer->id,
        .range_count = ack->range_count,
    };
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_ack_record_size(ack->range_count), &action));
    ql_ack_record_encode(&record, ack->ranges, action->record);
    struct q_bytes bytes = q_bytes_from(action->record, action->record_size);
    enum q_err err = ql_ack_record_decode(bytes, &record);
    Q_ASSERT(err == Q_OK);
    uint64_t before = consumer->held_messages + consumer->group->pending_messages;
    for (uint32_t i = 0; i < record.range_count; i++) {
        /* From the record: `expired` may lie over `ranges`. */
        struct qlog_range range = ql_ack_range_at(&record, i);
        bool late = false;
        err = ql_consumer_check_ack(consumer, &range, &late);
        if (err == Q_OK && late && ack->expired_count < ack->expired_max)
            ack->expired[ack->expired_count++] = range;
    }
    err = ql_group_apply_ack(consumer->group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    store->counters.acks++;
    store->counters.acked += before - consumer->held_messages - consumer->group->pending_messages;
    ack->unacked = consumer->held_messages;
    ql_action_append(action, &ack->request);
    /* Its window may have been what its parked pull waited for. */
    if (consumer->parked != NULL) ql_group_try(store, consumer->group);
    return Q_OK;
}
