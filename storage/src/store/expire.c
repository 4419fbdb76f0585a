#include "store/expire.h"

#include "planted.h"
#include "store/store.h"

enum {
    TURN_GROUPS = 512,        /* looked at in a turn */
    TURN_MARKED = 16,         /* … of which so many had something */
    RESOLVED_MAX = INT32_MAX, /* sequences from the first to the last of one range */
};
#define RETRY_NS    ((uint64_t)Q_NS_PER_S)
#define PATIENCE_NS (60 * (uint64_t)Q_NS_PER_S)

static void expiry_mark(struct qlog_store *store);
static enum q_err expiry_mark_group(struct qlog_store *store, struct ql_group *group);
static void expiry_look(struct qlog_store *store);
static bool group_has_more(struct qlog_store *store, struct ql_group *group);
static bool group_is_copied(struct qlog_store *store, struct ql_group *group);
static enum q_err group_below(
    struct qlog_store *store, struct ql_group *group, uint64_t *ret_below);

bool
ql_expiry_begin(struct qlog_store *store, uint64_t before)
{
    if (store->retention.level >= QL_DISK_HARD || QL_PLANTED(expired_uncopied)) return false;
    store->expiry = (struct ql_expiry){
        .state = QL_EXPIRY_MARKING,
        .before = before,
        .waits_for = UINT32_MAX,
        .progress_ns = store->now_ns,
    };
    return true;
}

void
ql_expiry_turn(struct qlog_store *store)
{
    struct ql_expiry *expiry = &store->expiry;
    if (ql_expiry_is_due(store)) expiry_mark(store);
    if (expiry->state == QL_EXPIRY_COPYING) expiry_look(store);
}

bool
ql_expiry_is_due(const struct qlog_store *store)
{
    return store->expiry.state == QL_EXPIRY_MARKING && store->expiry.retry_ns <= store->now_ns;
}

void
ql_expiry_end(struct qlog_store *store)
{
    while (store->expiry.state != QL_EXPIRY_IDLE) {
        store->expiry.state = QL_EXPIRY_IDLE;
        ql_trim_copied(store, Q_STOPPING);
    }
}

/* Whether to wait no longer, though not all is copied. */
static bool
expiry_gives_up(struct qlog_store *store)
{
    return store->retention.level >= QL_DISK_HARD ||
           store->now_ns - store->expiry.progress_ns >= PATIENCE_NS;
}

/* Letters of others say nothing of what is waited for, nor do those of messages that begin to die meanwhile:
 * there must be fewer than ever. */
static void
expiry_note_progress(struct qlog_store *store, const struct ql_group *group)
{
    struct ql_expiry *expiry = &store->expiry;
    uint64_t left = group->pending_by[QL_REASON_DYING];
    if (expiry->waits_for == expiry->next && left >= expiry->left) return;
    expiry->waits_for = expiry->next;
    expiry->left = left;
    expiry->progress_ns = store->now_ns;
}

static void
expiry_over(struct qlog_store *store)
{
    store->expiry.state = QL_EXPIRY_IDLE;
    ql_trim_copied(store, Q_OK);
}

static void
expiry_mark(struct qlog_store *store)
{
    struct ql_expiry *expiry = &store->expiry;
    unsigned marked = 0;
    for (unsigned i = 0; i < TURN_GROUPS && marked < TURN_MARKED; i++, expiry->next++) {
        if (expiry->next >= store->group_count) {
            expiry->next = 0;
            expiry->state = QL_EXPIRY_COPYING;
            return;
        }
        struct ql_group *group = store->groups[expiry->next];
        if (group == NULL || group->of_dead || !ql_group_has_some(group)) continue;
        marked++;
        if (expiry_mark_group(store, group) == Q_OK) continue;
        /* No room in the action log, or the index can't be read: again in a while. */
        if (expiry_gives_up(store))
            expiry_over(store);
        else
            expiry->retry_ns = store->now_ns + RETRY_NS;
        return;
    }
}

static enum q_err
expiry_mark_group(struct qlog_store *store, struct ql_group *group)
{
    uint64_t at = ql_group_oldest(group);
    uint64_t below;
    Q_TRY(group_below(store, group, &below));
    while (at < below) {
        uint64_t stop = q_min_u64(below, at + RESOLVED_MAX);
        struct ql_resolve_item going = { at, stop - 1, 0 };
        Q_TRY(ql_store_resolve(store, group, QL_VERDICT_EXPIRING, &going, 1, NULL));
        at = stop;
    }
    ql_group_watch_pending(store, group);
    /* A window, or a key, may have been what somebody waited for. */
    ql_group_stir(store, group);
    return Q_OK;
}

static void
expiry_look(struct qlog_store *store)
{
    struct ql_expiry *expiry = &store->expiry;
    for (unsigned i = 0; i < TURN_GROUPS; i++, expiry->next++, expiry->below = 0) {
        if (expiry->next >= store->group_count) {
            expiry_over(store);
            return;
        }
        struct ql_group *group = store->groups[expiry->next];
        if (group == NULL || group->of_dead) continue;
        bool is_copied = group_is_copied(store, group);
        if (is_copied && !group_has_more(store, group)) continue;
        expiry_note_progress(store, group);
        /* Sent again by hand. Refused: with the next turn. */
        if (is_copied) (void)expiry_mark_group(store, group);
        break;
    }
    if (expiry_gives_up(store)) expiry_over(store);
}

/* Whether something that goes is in hands or pending, and not marked. */
static bool
group_has_more(struct qlog_store *store, struct ql_group *group)
{
    uint64_t below;
    if (!ql_group_has_some(group)) return false;
    /* Not to be told now: it is waited for, as long as patience lasts. */
    return group_below(store, group, &below) != Q_OK || ql_group_oldest(group) < below;
}

/* Whether nothing of the group is dying that goes. */
static bool
group_is_copied(struct qlog_store *store, struct ql_group *group)
{
    struct ql_expiry *expiry = &store->expiry;
    if (group->pending_by[QL_REASON_DYING] == 0) return true;
    if (expiry->below == 0 && group_below(store, group, &expiry->below) != Q_OK) return false;
    for (uint32_t i = 0; i < group->pending.count; i++) {
        const struct ql_range_item *item = ql_span_at(&group->pending, i);
        if (item->sequence >= expiry->below) return true;
        if (item->reason == QL_REASON_DYING) return false;
    }
    return true;
}

/* The group's first message, below its cursor, that stays; its cursor: none. */
static enum q_err
group_below(struct qlog_store *store, struct ql_group *group, uint64_t *ret_below)
{
    uint64_t oldest = ql_group_oldest(group);
    return ql_store_sequence_at(
        store, group->subject, store->expiry.before, oldest, group->cursor, ret_below);
}
