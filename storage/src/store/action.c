#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "store/store.h"

/* Memory of a record that is kept for the next one. */
enum {
    KEEP_BYTES = 64 * 1024
};

static enum q_err action_new(
    struct qlog_store *store, uint32_t size, bool always, struct ql_action **ret_action);
static void action_measure(struct ql_append *append, uint64_t incarnation);
static void action_fill(
    struct ql_append *append, const struct ql_place *place, uint8_t *records, uint8_t *payloads);
static void action_done(struct ql_append *append, enum q_err err);

static const struct ql_append_table action_table = {
    .measure = action_measure,
    .fill = action_fill,
    .done = action_done,
};

enum q_err
ql_action_new(struct qlog_store *store, uint32_t size, struct ql_action **ret_action)
{
    return action_new(store, size, false, ret_action);
}

enum q_err
ql_action_new_always(struct qlog_store *store, uint32_t size, struct ql_action **ret_action)
{
    return action_new(store, size, true, ret_action);
}

static enum q_err
action_new(struct qlog_store *store, uint32_t size, bool always, struct ql_action **ret_action)
{
    /* A change that is applied must reach the log. So changes are refused while the log could not
     * go on to a next segment, long before this one is full. */
    const struct ql_log *log = store->actions;
    uint64_t size_max = QL_ACTION_FRAME_MAX - QL_BLOCK;
    if (size > q_min_u64(size_max, ql_log_body_bytes_max(log)))
        return Q_FAIL(Q_TOO_BIG, .what = q_text("an action of %u bytes", size));
    uint64_t taken = log->tail + log->queued_bytes + size;
    uint64_t limit = ql_segment_limit(log->active);
    bool short_ = log->spare_count == 0 && log->roll != QL_ROLL_OPENING &&
                  taken + log->active->file_size / (always ? 16 : 4) > limit;
    if (short_)
        return Q_FAIL(
            Q_E_NO_SPACE, .path = store->home->env.path,
            .what = "no room for the next segment of the action log",
            .hint = "free some space on this file system");

    struct ql_action *action = store->free_actions;
    if (action != NULL) {
        store->free_actions = action->next;
    } else {
        action = calloc(1, sizeof(*action));
        if (action == NULL) return Q_FAIL(Q_E_NOMEM, .what = "action");
        action->store = store;
        store->action_bytes += sizeof(*action);
        action->append.table = &action_table;
    }
    if (size > action->record_capacity) {
        uint8_t *record = realloc(action->record, size);
        if (record == NULL) {
            ql_action_drop(action);
            return Q_FAIL(Q_E_NOMEM, .what = "action record");
        }
        action->record = record;
        store->action_bytes += size - action->record_capacity;
        action->record_capacity = size;
    }
    action->record_size = size;
    action->record_count = 1;
    action->request = NULL;
    action->subject = NULL;
    action->names = false;
    action->next = NULL;
    action->group_id = (uint32_t)QL_GROUP_NONE;
    action->append.flushed = false;
    *ret_action = action;
    return Q_OK;
}

void
ql_action_drop(struct ql_action *action)
{
    if (action->record_capacity > KEEP_BYTES) {
        free(action->record);
        action->store->action_bytes -= action->record_capacity;
        action->record = NULL;
        action->record_capacity = 0;
    }
    action->next = action->store->free_actions;
    action->store->free_actions = action;
}

void
ql_action_append(struct ql_action *action, struct qlog_request *request)
{
    action->request = request;
    enum q_err err = ql_log_append(action->store->actions, &action->append);
    /* Records are bounded far below a segment: windows and names have limits. */
    Q_ASSERT(err == Q_OK);
}

void
ql_actions_free(struct qlog_store *store)
{
    while (store->free_actions != NULL) {
        struct ql_action *action = store->free_actions;
        store->free_actions = action->next;
        free(action->record);
        free(action);
    }
}

static void
action_measure(struct ql_append *append, uint64_t incarnation)
{
    (void)incarnation;
    struct ql_action *action = q_container_of(append, struct ql_action, append);
    append->records_size = action->record_size;
    append->payloads_size = 0;
    append->record_count = action->record_count;
}

static void
action_fill(
    struct ql_append *append, const struct ql_place *place, uint8_t *records, uint8_t *payloads)
{
    (void)payloads;
    struct ql_action *action = q_container_of(append, struct ql_action, append);
    if (action->subject != NULL) action->subject->stated_at = place->frame;
    /* It may have been deleted since. */
    struct ql_group *group = ql_store_group(action->store, action->group_id);
    if (group != NULL) group->stated_at = place->frame;
    if (action->names) ql_index_files_name_placed(&action->store->index.files, place->frame);
    memcpy(records, action->record, action->record_size);
}

static void
action_done(struct ql_append *append, enum q_err err)
{
    struct ql_action *action = q_container_of(append, struct ql_action, append);
    struct ql_env *env = &action->store->home->env;
    /* The change is in memory but can't get into the log: memory is ahead of what a restart would
     * find, so the store must not go on. A stop is no such case: nothing follows it. */
    if (err != Q_OK && err != Q_STOPPING && env->broken == Q_OK)
        ql_env_break(env, action->store->actions->name, env->path, action->store->actions->tail, 0);
    struct qlog_store *store = action->store;
    struct qlog_request *request = action->request;
    ql_action_drop(action);
    if (request == NULL) return;
    /* Only an answer that is good carries pins away. */
    if (request->kind == QLOG_PULL && err != Q_OK)
        qlog_pull_release(q_container_of(request, struct qlog_pull, request));
    if (request->kind == QLOG_TRIM)
        ql_trim_go_on(store, q_container_of(request, struct qlog_trim, request), err);
    else
        ql_request_finish(request, err);
}

enum q_err
ql_store_need_subject(
    struct qlog_store *store, struct q_bytes name, struct ql_subject **ret_subject)
{
    if (ql_index_find(&store->index, name, ret_subject) == Q_OK) return Q_OK;
    /* The message log names a subject in each segment; the action log once, so that the name
     * outlives the messages. */
    if (name.size > QLOG_SUBJECT_MAX)
        return Q_FAIL(Q_INVALID, .what = q_text("a subject's name of %zu bytes", name.size));
    struct ql_subject_record record = { .name = name };
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_subject_record_size(&record), &action));
    bool created;
    enum q_err err = ql_index_need(&store->index, name, ret_subject, &created);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    record.subject_id = (*ret_subject)->id;
    ql_subject_record_encode(&record, action->record);
    action->subject = *ret_subject;
    action->names = true;
    ql_index_files_name_queued(&store->index.files);
    ql_action_append(action, NULL);
    return Q_OK;
}
