/*
 * store/pull.c: pulls: asked, answered, parked. What one is given: store/hand.c.
 *
 * A pull that finds nothing, or less than it wants at least, is parked with its group. News of its
 * subject (a mark that moved over new entries), and of its group (messages that were released, or are
 * due), try the group's parked pulls, first come first served.
 *
 * Members with the same filter find the same: after one of them has found nothing the others are not
 * tried. So the pulls that wait cost nothing, however many there are. The hurried ones alone are each
 * looked at: what does not want to wait for messages, only for a filter to see everything or for the
 * disk, and what reads again what its consumer holds already.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "planted.h"
#include "store/hand.h"

/* A parked pull, in its private words. */
struct ql_park {
    struct q_list link; /* in ql_group.parked */
    struct q_heap_node deadline;
    struct ql_consumer *consumer;
    bool parked;
    bool unseen;   /* the filter has not looked at everything yet */
    bool fetching; /* something is being read from the disk for it: */
    bool own;      /* what its consumer holds already */
};

/* Filters, a bit each, for which a pull of the group has found nothing; it is read from the disk. */
struct tried {
    uint16_t filters;
    uint16_t fetching;
};

_Static_assert(sizeof(struct ql_park) <= sizeof(struct qlog_private), "private words are too few");

/* How long a pull that would not wait may still be looked for by its filter, or on the disk. Clients
 * wait for five seconds more than they ask for. */
#define LOOK_WAIT_NS (3 * (uint64_t)Q_NS_PER_S)

static bool pull_try(struct qlog_store *store, struct qlog_pull *pull, bool last);
static void pull_park(
    struct qlog_store *store, struct qlog_pull *pull, struct ql_consumer *consumer);
static void pull_note_fetching(struct ql_park *park, bool fetching, bool own);
static void pull_leave_park(struct qlog_store *store, struct qlog_pull *pull);
static uint64_t pull_waiting(const struct qlog_store *store, struct qlog_pull *pull);
static void group_try_hurried(
    struct qlog_store *store, struct ql_group *group, struct tried *tried);
static bool group_try_one(struct qlog_store *store, struct ql_park *park, struct tried *tried);
static bool group_has_news(const struct qlog_store *store, const struct ql_group *group);

static struct ql_park *
park_of(struct qlog_pull *pull)
{
    return (struct ql_park *)(void *)&pull->private_;
}

static struct qlog_pull *
pull_of_park(struct ql_park *park)
{
    return q_container_of(park, struct qlog_pull, private_);
}

static struct ql_park *
park_of_link(struct q_list *link)
{
    return q_container_of(link, struct ql_park, link);
}

/* No two pulls lie in one place. */
static uint64_t
pull_hash(const struct qlog_pull *pull)
{
    return (uint64_t)(uintptr_t)pull;
}

/* The list that it is parked in. */
static struct q_list *
pull_queue(struct ql_park *park)
{
    struct ql_group *group = park->consumer->group;
    return pull_of_park(park)->wait_ns == 0 || park->own ? &group->hurried : &group->parked;
}

uint64_t
ql_store_visible_end(const struct qlog_store *store, const struct ql_subject *subject)
{
    bool early = ql_store_mode(store, subject) == QLOG_MODE_ASYNC || QL_PLANTED(seen_before_flush);
    uint64_t mark = early ? store->messages->written : store->messages->durable;
    return ql_index_visible_end(&store->index, subject, mark);
}

void
ql_pull_start(struct qlog_store *store, struct qlog_pull *pull)
{
    struct ql_park *park = park_of(pull);
    memset(park, 0, sizeof(*park));
    q_list_init(&park->link);
    q_heap_node_init(&park->deadline);
    pull->run_count = 0;
    pull->piece_count = 0;
    pull->waiting = 0;
    pull->held = QLOG_HELD_NOT;
    struct ql_consumer *consumer;
    enum q_err err = ql_store_consumer(store, &pull->who, &consumer);
    if (err == Q_OK && (pull->messages_max == 0 || pull->runs_max == 0 || pull->pieces_max == 0))
        err = Q_FAIL(Q_INVALID, .what = "a pull for no messages");
    if (err == Q_OK && pull->received > ql_consumer_next(store, consumer))
        err = Q_FAIL(
            Q_INVALID,
            .what = q_text(
                "pull sequence %llu was never handed out", (unsigned long long)pull->received));
    if (err != Q_OK) {
        ql_request_finish(&pull->request, err);
        return;
    }
    ql_consumer_seen(store, consumer);
    if (consumer->parked != NULL) ql_pull_unpark(store, consumer->parked, Q_OK);
    park->consumer = consumer;
    if (pull_try(store, pull, pull->wait_ns == 0)) return;
    if (pull->wait_ns > 0 || park->unseen || park->fetching) {
        pull_park(store, pull, consumer);
        return;
    }
    ql_request_finish(&pull->request, Q_OK);
}

/*
 * True when the pull was answered, or is going to be when its action is written. `last`: it will not
 * wait any longer, and takes what is there.
 */
static bool
pull_try(struct qlog_store *store, struct qlog_pull *pull, bool last)
{
    struct ql_park *park = park_of(pull);
    struct ql_consumer *consumer = park->consumer;
    struct ql_action *action = NULL;
    bool own = false;
    enum ql_hand_wait wait = QL_HAND_NEWS;
    pull->unacked = consumer->held_messages;
    enum q_err err = ql_hand_repeat(store, pull, consumer, &action, &own);
    if (err == Q_NOT_FOUND && !own) err = ql_hand_out(store, pull, consumer, last, &action, &wait);
    bool waits = err == Q_NOT_FOUND;
    pull_note_fetching(park, waits && (own || wait == QL_HAND_FETCH), waits && own);
    if (err == Q_NOT_FOUND) {
        if (park->fetching) ql_subject_stir(store, consumer->group->subject);
        if (wait == QL_HAND_LOOK) {
            /* Its filter took nothing in one try's worth of messages: it goes on in the next turn. */
            ql_subject_stir(store, consumer->group->subject);
            store->look_again = true;
            park->unseen = true;
        }
        return false;
    }
    pull_leave_park(store, pull);
    if (err == Q_OK && action != NULL)
        ql_action_append(action, &pull->request);
    else
        ql_request_finish(&pull->request, err);
    return true;
}

/* --- Parked pulls. */

static void
pull_park(struct qlog_store *store, struct qlog_pull *pull, struct ql_consumer *consumer)
{
    struct ql_park *park = park_of(pull);
    struct ql_group *group = consumer->group;
    uint64_t wait_ns = pull->wait_ns == 0 ? LOOK_WAIT_NS : pull->wait_ns;
    enum q_err err = q_map_put(&store->parked, pull_hash(pull), 0);
    if (err == Q_OK) {
        err = q_heap_push(&store->pull_deadlines, &park->deadline, store->now_ns + wait_ns);
        if (err != Q_OK) (void)q_map_remove(&store->parked, pull_hash(pull), 0);
    }
    if (err != Q_OK) {
        ql_request_finish(&pull->request, err);
        return;
    }
    park->parked = true;
    consumer->parked = pull;
    q_list_push_back(pull_queue(park), &park->link);
    if (!q_list_is_linked(&group->parked_link))
        q_list_push_back(&group->subject->parked_groups, &group->parked_link);
    store->counters.parked++;
    /* Entries may be there that no mark has passed yet. */
    ql_subject_stir(store, group->subject);
}

static void
pull_note_fetching(struct ql_park *park, bool fetching, bool own)
{
    park->fetching = fetching;
    if (own == park->own) return;
    park->own = own;
    if (!park->parked) return;
    q_list_remove(&park->link);
    q_list_push_back(pull_queue(park), &park->link);
}

static void
pull_leave_park(struct qlog_store *store, struct qlog_pull *pull)
{
    struct ql_park *park = park_of(pull);
    if (!park->parked) return;
    struct ql_group *group = park->consumer->group;
    /* Until now it was a sign of life. */
    park->consumer->last_seen_ns = store->now_ns;
    park->parked = false;
    park->consumer->parked = NULL;
    q_list_remove(&park->link);
    q_heap_remove(&store->pull_deadlines, &park->deadline);
    (void)q_map_remove(&store->parked, pull_hash(pull), 0);
    if (q_list_is_empty(&group->parked) && q_list_is_empty(&group->hurried))
        q_list_remove(&group->parked_link);
    store->counters.parked--;
}

/* What there is though nothing is handed out: new ones, and what is still on its way from the disk. */
static uint64_t
pull_waiting(const struct qlog_store *store, struct qlog_pull *pull)
{
    const struct ql_park *park = park_of(pull);
    const struct ql_consumer *consumer = park->consumer;
    const struct ql_group *group = consumer->group;
    uint64_t visible_end = ql_store_visible_end(store, group->subject);
    uint64_t waiting = visible_end > group->cursor ? visible_end - group->cursor : 0;
    if (!park->fetching) return waiting;
    if (group->due_ms <= store->wall_ms) waiting += group->pending_messages;
    const struct ql_spans *held = &consumer->held;
    for (uint32_t i = ql_spans_find(held, pull->received); i < held->count; i++) {
        const struct ql_range_item *item = ql_span_at(held, i);
        uint64_t end = item->pull_sequence + item->count;
        waiting += end - q_max_u64(item->pull_sequence, pull->received);
    }
    return waiting;
}

void
ql_pull_unpark(struct qlog_store *store, struct qlog_pull *pull, enum q_err err)
{
    pull->waiting = err == Q_OK ? pull_waiting(store, pull) : 0;
    pull->unacked = park_of(pull)->consumer->held_messages;
    pull_leave_park(store, pull);
    if (err == Q_CONSUMER_REPLACED || err == Q_NO_SESSION)
        err = Q_FAIL(err, .what = "the session ended while the pull was waiting");
    if (err == Q_STOPPING) err = Q_FAIL(err, .what = "the pull was ended while it was waiting");
    if (err < Q_OK) err = ql_env_check(&store->home->env);
    ql_request_finish(&pull->request, err);
}

void
ql_pull_cancel(struct qlog_store *store, struct qlog_cancel *cancel)
{
    /* The target may have been answered, and its memory be gone: look, don't touch. */
    uint32_t value;
    if (q_map_get(&store->parked, pull_hash(cancel->target), NULL, NULL, NULL, &value))
        ql_pull_unpark(store, cancel->target, Q_STOPPING);
    ql_request_finish(&cancel->request, Q_OK);
}

void
ql_pulls_expire(struct qlog_store *store)
{
    for (;;) {
        struct q_heap_node *node = q_heap_first(&store->pull_deadlines);
        if (node == NULL || node->key > store->now_ns) return;
        struct ql_park *park = q_container_of(node, struct ql_park, deadline);
        struct qlog_pull *pull = pull_of_park(park);
        if (!pull_try(store, pull, true)) ql_pull_unpark(store, pull, Q_OK);
    }
}

void
ql_pulls_end(struct qlog_store *store)
{
    enum q_err err = store->home->env.broken;
    struct q_heap_node *node;
    while ((node = q_heap_first(&store->pull_deadlines)) != NULL) {
        struct ql_park *park = q_container_of(node, struct ql_park, deadline);
        ql_pull_unpark(store, pull_of_park(park), err == Q_OK ? Q_STOPPING : err);
    }
    while (q_list_pop_front(&store->stirred) != NULL)
        continue;
}

void
ql_pulls_of_group_end(struct qlog_store *store, struct ql_group *group)
{
    q_list_for_each_safe(link, &group->hurried)
        ql_pull_unpark(store, pull_of_park(park_of_link(link)), Q_NO_SESSION);
    q_list_for_each_safe(link, &group->parked)
        ql_pull_unpark(store, pull_of_park(park_of_link(link)), Q_NO_SESSION);
}

void
ql_group_try(struct qlog_store *store, struct ql_group *group)
{
    struct tried tried = { 0 };
    group_try_hurried(store, group, &tried);
    uint16_t live = ql_filters_live(&group->filters);
    q_list_for_each_safe(link, &group->parked) {
        if (!group_has_news(store, group) || (live & ~tried.filters) == 0) return;
        (void)group_try_one(store, park_of_link(link), &tried);
    }
}

/* Those that would not wait, and have nothing left to wait for, are answered. */
static void
group_try_hurried(struct qlog_store *store, struct ql_group *group, struct tried *tried)
{
    q_list_for_each_safe(link, &group->hurried) {
        struct ql_park *park = park_of_link(link);
        if (group_try_one(store, park, tried)) continue;
        bool seen = ql_store_visible_end(store, group->subject) <= group->cursor;
        if (pull_of_park(park)->wait_ns == 0 && !park->fetching && seen)
            ql_pull_unpark(store, pull_of_park(park), Q_OK);
    }
}

/* True when it was answered: its memory is the caller's again. */
static bool
group_try_one(struct qlog_store *store, struct ql_park *park, struct tried *tried)
{
    const struct ql_consumer *consumer = park->consumer;
    struct qlog_pull *pull = pull_of_park(park);
    uint16_t filter = (uint16_t)(1u << consumer->filter);
    if (!park->own && (tried->filters & filter) != 0) {
        park->fetching = (tried->fetching & filter) != 0;
        return false;
    }
    bool had_room = consumer->held_messages < store->window_messages_max &&
                    consumer->held_bytes < store->window_bytes_max;
    if (pull_try(store, pull, pull->wait_ns == 0)) return true;
    /* One that wants more than there is, or may not have more, says nothing of the others. */
    if (park->own || !had_room || pull->messages_min > 1 || pull->bytes_min > 0) return false;
    tried->filters = (uint16_t)(tried->filters | filter);
    if (park->fetching) tried->fetching = (uint16_t)(tried->fetching | filter);
    return false;
}

static bool
group_has_news(const struct qlog_store *store, const struct ql_group *group)
{
    if (group->paused) return false;
    return group->due_ms <= store->wall_ms ||
           ql_store_visible_end(store, group->subject) > group->cursor;
}

void
ql_subject_stir(struct qlog_store *store, struct ql_subject *subject)
{
    if (q_list_is_empty(&subject->parked_groups) || q_list_is_linked(&subject->stirred_link))
        return;
    q_list_push_back(&store->stirred, &subject->stirred_link);
}

void
ql_group_stir(struct qlog_store *store, struct ql_group *group)
{
    ql_subject_stir(store, group->subject);
    store->look_again = true;
}

void
ql_subjects_look(struct qlog_store *store)
{
    const struct ql_log *log = store->messages;
    bool retry = store->fetch_retry_ns > 0 && store->now_ns >= store->fetch_retry_ns;
    if (store->looked_written == log->written && store->looked_durable == log->durable &&
        !store->look_again && !retry)
        return;
    if (retry) store->fetch_retry_ns = 0;
    store->looked_written = log->written;
    store->looked_durable = log->durable;
    store->look_again = false;
    struct q_list stirred;
    q_list_init(&stirred);
    q_list_splice_back(&stirred, &store->stirred);
    struct q_list *node;
    while ((node = q_list_pop_front(&stirred)) != NULL) {
        struct ql_subject *subject = q_container_of(node, struct ql_subject, stirred_link);
        q_list_for_each_safe(link, &subject->parked_groups)
            ql_group_try(store, q_container_of(link, struct ql_group, parked_link));
        /* Entries in flight become visible when a mark moves: look again then. */
        if (ql_store_visible_end(store, subject) < subject->next_sequence)
            ql_subject_stir(store, subject);
    }
}
