/*
 * store/groups.c: the table of groups, and what becomes due in them.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "planted.h"
#include "store/store.h"

/* A broadcast group whose last consumer was seen so long ago is forgotten. */
#define BROADCAST_KEEP_NS (2 * 86400 * (uint64_t)Q_NS_PER_S)

static void groups_shrink(struct qlog_store *store);
static uint64_t group_filters_due(struct qlog_store *store, struct ql_group *group);
static enum q_err group_unfilter(struct qlog_store *store, struct ql_group *group, uint32_t slot);
static bool group_is_forgotten(struct qlog_store *store, struct ql_group *group, uint64_t *due_ns);

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

struct ql_group *
ql_store_find_group(
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
        ql_store_find_group(store, subject, record->name) != NULL)
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
    Q_TRY(ql_group_new(record, subject, &store->room, &group));
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

void
ql_store_remove_group(struct qlog_store *store, struct ql_group *group)
{
    ql_pulls_of_group_end(store, group);
    /* Dead letters of it that are under way: another group may get its number. */
    if (store->dead.group_id == group->id) store->dead.epoch = UINT64_MAX;
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL) continue;
        ql_store_note_pulls(store, consumer);
        q_heap_remove(&store->consumer_deadlines, &consumer->deadline);
        q_heap_remove(&store->consumer_timeouts, &consumer->timeout);
    }
    q_heap_remove(&store->group_deadlines, &group->due);
    q_list_remove(&group->subject_link);
    q_list_remove(&group->parked_link);
    q_list_remove(&group->dying_link);
    struct group_key key = {
        .subject_id = group->subject->id,
        .name = q_bytes_from(group->name, group->name_size),
    };
    (void)q_map_remove(&store->groups_by_name, group_hash(&key), group->id);
    store->groups[group->id] = NULL;
    store->group_hint = (uint32_t)q_min_u64(store->group_hint, group->id);
    store->counters.groups--;
    ql_group_free(group);
}

enum q_err
ql_store_admit_group(struct qlog_store *store)
{
    if (ql_room_is_full(&store->room)) groups_shrink(store);
    if (!ql_room_is_full(&store->room)) return Q_OK;
    return Q_FAIL(
        Q_BUSY,
        .what = q_text(
            "groups and what their consumers hold take %llu bytes of memory; the limit is %llu",
            (unsigned long long)store->room.used, (unsigned long long)store->room.max),
        .hint = "acknowledge messages, delete groups, or raise the limit (--group-memory)");
}

void
ql_groups_room(struct qlog_store *store)
{
    if (!store->room_wanted || store->now_ns < store->room_next_ns) return;
    store->room_next_ns = store->now_ns + Q_NS_PER_S;
    if (ql_room_is_full(&store->room)) groups_shrink(store);
    if (ql_room_is_full(&store->room)) return;
    store->room_wanted = false;
    for (uint32_t i = 0; i < store->group_count; i++)
        if (store->groups[i] != NULL) ql_group_stir(store, store->groups[i]);
}

/* Arrays are kept when what was in them is gone: before anybody is refused they are given back. */
static void
groups_shrink(struct qlog_store *store)
{
    if (store->now_ns < store->shrink_next_ns) return;
    store->shrink_next_ns = store->now_ns + Q_NS_PER_S;
    for (uint32_t i = 0; i < store->group_count; i++)
        if (store->groups[i] != NULL) ql_group_shrink(store->groups[i]);
}

uint32_t
ql_store_free_group_id(struct qlog_store *store)
{
    while (store->group_hint < store->group_count && store->groups[store->group_hint] != NULL)
        store->group_hint++;
    return store->group_hint;
}

/* --- Time. */

uint64_t
ql_store_ns_of(const struct qlog_store *store, uint64_t wall_ms)
{
    if (wall_ms <= store->wall_ms) return store->now_ns;
    uint64_t wait_ms = wall_ms - store->wall_ms;
    /* Far away is looked at again now and then. */
    uint64_t day_ms = 86400 * (uint64_t)Q_MS_PER_S;
    return store->now_ns + q_min_u64(wait_ms, day_ms) * Q_NS_PER_MS;
}

void
ql_group_watch(struct qlog_store *store, struct ql_group *group, uint64_t at_ns)
{
    if (q_heap_node_is_linked(&group->due)) {
        if (group->due.key <= at_ns) return;
        q_heap_remove(&store->group_deadlines, &group->due);
    }
    /* Out of memory: it is looked at with the next thing that becomes due in it. */
    (void)!q_heap_push(&store->group_deadlines, &group->due, at_ns);
}

void
ql_group_watch_pending(struct qlog_store *store, struct ql_group *group)
{
    if (group->pending_by[QL_REASON_DYING] > 0 && !q_list_is_linked(&group->dying_link))
        q_list_push_back(&store->dying, &group->dying_link);
    uint64_t due_ms = ql_group_next_due(group, store->wall_ms);
    if (due_ms != UINT64_MAX) ql_group_watch(store, group, ql_store_ns_of(store, due_ms));
}

void
ql_groups_expire(struct qlog_store *store)
{
    for (;;) {
        struct q_heap_node *node = q_heap_first(&store->group_deadlines);
        if (node == NULL || node->key > store->now_ns) return;
        struct ql_group *group = q_container_of(node, struct ql_group, due);
        q_heap_remove(&store->group_deadlines, node);
        uint64_t due_ns = UINT64_MAX;
        if (group_is_forgotten(store, group, &due_ns)) continue;
        due_ns = q_min_u64(due_ns, group_filters_due(store, group));
        if (due_ns != UINT64_MAX) ql_group_watch(store, group, due_ns);
        ql_group_watch_pending(store, group);
        if (group->due_ms <= store->wall_ms) ql_group_try(store, group);
    }
}

/* Filters whose time without members is over go. When the next one's is. */
static uint64_t
group_filters_due(struct qlog_store *store, struct ql_group *group)
{
    uint64_t keep_ns = group->settings.filter_keep_ms * (uint64_t)Q_NS_PER_MS;
    uint64_t due_ns = UINT64_MAX;
    bool alone = ql_filters_live(&group->filters) == 0;
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++) {
        struct ql_filter *filter = group->filters.slots[i];
        if (filter == NULL) continue;
        /* A group that nobody uses waits for its members, however long. */
        if (filter->members > 0 || alone) {
            filter->left_ns = 0;
            continue;
        }
        if (filter->left_ns == 0) filter->left_ns = q_max_u64(store->now_ns, 1);
        uint64_t end_ns = filter->left_ns + (QL_PLANTED(filter_dropped) ? 0 : keep_ns);
        if (end_ns <= store->now_ns) {
            /* What is dying would be skipped with it, and has a dead letter coming. */
            bool dying = group->pending_by[QL_REASON_DYING] > 0;
            if (!dying && group_unfilter(store, group, i) == Q_OK) continue;
            end_ns = store->now_ns + Q_NS_PER_S;
        }
        due_ns = q_min_u64(due_ns, end_ns);
    }
    return due_ns;
}

static enum q_err
group_unfilter(struct qlog_store *store, struct ql_group *group, uint32_t slot)
{
    struct ql_unfilter_record record = { .group_id = group->id, .slot = slot };
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_unfilter_record_size(), &action));
    enum q_err err = ql_group_apply_unfilter(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    ql_unfilter_record_encode(&record, action->record);
    ql_action_append(action, NULL);
    /* What waited for it alone may have been what held the cursor. */
    ql_group_try(store, group);
    return Q_OK;
}

/* Whether a broadcast group was deleted; else when to look again. */
static bool
group_is_forgotten(struct qlog_store *store, struct ql_group *group, uint64_t *due_ns)
{
    if (!group->broadcast) return false;
    uint64_t seen_ns = group->seen_ns;
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL)
            seen_ns = q_max_u64(seen_ns, group->consumers[i]->last_seen_ns);
    group->seen_ns = seen_ns;
    *due_ns = seen_ns + BROADCAST_KEEP_NS;
    if (*due_ns > store->now_ns) return false;
    if (ql_store_delete_group(store, group, NULL) == Q_OK) return true;
    *due_ns = store->now_ns + Q_NS_PER_S;
    return false;
}

enum q_err
ql_store_delete_group(
    struct qlog_store *store, struct ql_group *group, struct qlog_request *request)
{
    struct ql_delete_record record = { .group_id = group->id };
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_delete_record_size(), &action));
    ql_delete_record_encode(&record, action->record);
    action->append.flushed = request != NULL;
    ql_store_remove_group(store, group);
    ql_action_append(action, request);
    return Q_OK;
}

enum q_err
ql_store_resolve(
    struct qlog_store *store,
    struct ql_group *group,
    enum ql_verdict verdict,
    const struct ql_resolve_item *items,
    uint32_t count,
    struct qlog_request *request)
{
    struct ql_resolve_record record = {
        .group_id = group->id,
        .verdict = (uint8_t)verdict,
        .item_count = count,
    };
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_resolve_record_size(count), &action));
    uint64_t dead = group->dead;
    uint64_t expired = group->expired;
    ql_resolve_record_encode(&record, items, action->record);
    enum q_err err =
        ql_resolve_record_decode(q_bytes_from(action->record, action->record_size), &record);
    if (err == Q_OK) err = ql_group_apply_resolve(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    store->counters.dead += group->dead - dead;
    store->counters.expired += group->expired - expired;
    action->append.flushed = request != NULL;
    ql_action_append(action, request);
    return Q_OK;
}
