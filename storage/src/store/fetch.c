/*
 * store/fetch.c: batches for pulls: from memory, or wanted from the disk.
 *
 * A pull that meets a batch which is not in memory takes what it has, or is parked, and its subject
 * is stirred when the batch has come. A group that reads from the disk has what comes next read
 * ahead of it, so that most of its pulls find what they want.
 */
#include "store/store.h"

enum {
    AHEAD_SHARE = 8,      /* of the memory for what was read back, for one group */
    AHEAD_ENTRIES = 1024, /* bounds a turn */
    SCRUB_RATE_DEFAULT = 4 * 1024 * 1024,
};

#define TELL_NS  (10 * (uint64_t)Q_NS_PER_S)
#define RETRY_NS (10 * (uint64_t)Q_NS_PER_MS)

static void fetch_on_news(void *context, uint32_t subject_id);
static void fetch_on_bad(
    void *context, uint32_t subject_id, const struct ql_entry *entry, enum q_err err, int sys);
static void fetch_on_rot(void *context, uint64_t position, uint64_t bytes, enum q_err err, int sys);
static enum q_err fetch(
    struct qlog_store *store,
    struct ql_group *group,
    const struct ql_entry *entry,
    bool whole,
    struct ql_batch_view *ret_view);
static struct qlog_piece fetch_pin(const struct ql_entry *entry, const struct ql_batch_view *view);
static void fetch_ahead(
    struct qlog_store *store, struct ql_group *group, uint64_t sequence, uint64_t end);
static enum ql_wanted fetch_wanted(
    struct qlog_store *store, struct ql_group *group, const struct ql_entry *entry);

void
ql_fetch_init(struct qlog_store *store, uint64_t scrub_rate)
{
    struct ql_reader_options options = {
        .tail_bytes = store->memory.tail_bytes,
        .read_bytes = store->memory.read_bytes,
        .threaded = store->home->io_owned,
        .context = store,
        .on_news = fetch_on_news,
        .on_bad = fetch_on_bad,
    };
    ql_reader_init(&store->reader, store->messages, &options);
    store->messages->on_frame = ql_reader_on_frame;
    store->messages->frame_context = &store->reader;
    struct ql_scrub_options scrub_options = {
        .bytes_per_s = scrub_rate == 0 ? SCRUB_RATE_DEFAULT : scrub_rate,
        .context = store,
        .on_bad = fetch_on_rot,
    };
    ql_scrub_init(&store->scrub, store->messages, &store->reader.worker, &scrub_options);
}

void
ql_fetch_fini(struct qlog_store *store)
{
    if (store->reader.log == NULL) return;
    store->messages->on_frame = NULL;
    ql_worker_stop(&store->reader.worker);
    ql_scrub_fini(&store->scrub);
    ql_reader_fini(&store->reader);
    ql_worker_fini(&store->reader.worker);
}

static void
fetch_on_news(void *context, uint32_t subject_id)
{
    struct qlog_store *store = context;
    struct ql_subject *subject = ql_index_get(&store->index, subject_id);
    if (subject != NULL) ql_subject_stir(store, subject);
    store->look_again = true;
}

static void
fetch_on_bad(
    void *context, uint32_t subject_id, const struct ql_entry *entry, enum q_err err, int sys)
{
    struct qlog_store *store = context;
    const struct ql_subject *subject = ql_index_get(&store->index, subject_id);
    const char *name = subject == NULL ? "?" : subject->name;
    unsigned long long first = entry->first_sequence;
    unsigned long long last = ql_entry_end(entry) - 1;
    struct ql_event_args args = {
        .log = store->messages->name,
        .path = store->home->env.path,
        .position = entry->frame,
        .bytes = entry->frame_size,
    };
    if (err == Q_E_CORRUPT) {
        args.text = q_text(
            "damaged below the durable mark: messages %llu to %llu of \"%s\" are not handed out",
            first, last, name);
        ql_env_tell(&store->home->env, QLOG_EVENT_ROT, &args);
        return;
    }
    /* A disk that fails gives many. Who pulls them is told each time. */
    if (store->now_ns < store->tell_read_ns) return;
    store->tell_read_ns = store->now_ns + TELL_NS;
    args.text = q_text(
        "messages %llu to %llu of \"%s\" can not be read: %s (errno %d); who pulls them is "
        "refused, "
        "and it is tried again",
        first, last, name, q_err_name(err), sys);
    ql_env_tell(&store->home->env, QLOG_EVENT_READ_FAILED, &args);
}

/* The scrubber's. */
static void
fetch_on_rot(void *context, uint64_t position, uint64_t bytes, enum q_err err, int sys)
{
    struct qlog_store *store = context;
    const struct ql_env *env = &store->home->env;
    store->counters.rotten += bytes;
    if (err == Q_E_CORRUPT)
        QL_TELL(
            env, ROT, .log = store->messages->name, .path = env->path, .position = position,
            .bytes = bytes,
            .text =
                "damaged below the durable mark, and found by the scrubber: kept, and not handed "
                "out; run: qlog verify DIR");
    else
        QL_TELL(
            env, READ_FAILED, .log = store->messages->name, .path = env->path, .position = position,
            .bytes = bytes,
            .text = q_text("the scrubber can not read: %s (errno %d)", q_err_name(err), sys));
}

enum q_err
ql_fetch_piece(
    struct qlog_store *store,
    struct ql_group *group,
    const struct ql_entry *entry,
    struct qlog_piece *ret_piece)
{
    struct ql_batch_view view;
    Q_TRY(fetch(store, group, entry, true, &view));
    *ret_piece = fetch_pin(entry, &view);
    return Q_OK;
}

enum q_err
ql_fetch_plain(
    struct qlog_store *store,
    const struct ql_subject *subject,
    const struct ql_entry *entry,
    struct qlog_piece *ret_piece)
{
    struct ql_batch_view view;
    enum q_err err = ql_reader_get(&store->reader, entry, true, &view);
    if (err == Q_AGAIN) (void)ql_reader_want(&store->reader, subject->id, entry, true);
    if (err == Q_OK) *ret_piece = fetch_pin(entry, &view);
    return err;
}

static struct qlog_piece
fetch_pin(const struct ql_entry *entry, const struct ql_batch_view *view)
{
    ql_keep_pin(view->blocks[0]);
    ql_keep_pin(view->blocks[1]);
    return (struct qlog_piece){
        .envelope = view->envelope,
        .envelope_size = entry->envelope_size,
        .payload = view->payload,
        .payload_size = entry->payload_size,
        .pins = { view->blocks[0], view->blocks[1] },
    };
}

void
ql_fetch_release(struct qlog_piece *piece)
{
    ql_keep_unpin(piece->pins[0]);
    ql_keep_unpin(piece->pins[1]);
}

enum q_err
ql_fetch_envelope(
    struct qlog_store *store,
    struct ql_group *group,
    const struct ql_entry *entry,
    struct qbatch *ret_batch)
{
    struct ql_batch_view view;
    Q_TRY(fetch(store, group, entry, false, &view));
    return qbatch_open_trusted(q_bytes_from(view.envelope, entry->envelope_size), ret_batch);
}

static enum q_err
fetch(
    struct qlog_store *store,
    struct ql_group *group,
    const struct ql_entry *entry,
    bool whole,
    struct ql_batch_view *ret_view)
{
    struct ql_subject *subject = group->subject;
    enum q_err err = ql_reader_get(&store->reader, entry, whole, ret_view);
    if (err == Q_OK) {
        bool halfway = entry->first_sequence >= group->ahead_halfway;
        if (ret_view->fetched && halfway && group->ahead > entry->first_sequence)
            fetch_ahead(store, group, group->ahead, subject->next_sequence);
        return Q_OK;
    }
    if (err != Q_AGAIN) return err;
    switch (ql_reader_want(&store->reader, subject->id, entry, whole)) {
    case QL_WANTED:
        fetch_ahead(store, group, ql_entry_end(entry), subject->next_sequence);
        break;
    case QL_WANTED_BEFORE:
        break;
    case QL_WANTED_NOT:
        /* Perhaps nothing is under way whose end would be news. */
        if (store->fetch_retry_ns == 0) store->fetch_retry_ns = store->now_ns + RETRY_NS;
        ql_subject_stir(store, subject);
        break;
    }
    return Q_AGAIN;
}

/* Want what the group is going to want, from `sequence` on. */
static void
fetch_ahead(struct qlog_store *store, struct ql_group *group, uint64_t sequence, uint64_t end)
{
    uint64_t visible_end = ql_store_visible_end(store, group->subject);
    uint64_t bytes = 0;
    uint64_t bytes_max = store->reader.options.read_bytes / AHEAD_SHARE;
    group->ahead_halfway = sequence;
    end = q_min_u64(end, visible_end);
    for (unsigned i = 0; i < AHEAD_ENTRIES && bytes < bytes_max && sequence < end; i++) {
        struct ql_entry entry;
        if (ql_index_entry(&store->index, group->subject, sequence, &entry) != Q_OK) break;
        if (entry.first_sequence >= end) break;
        if (fetch_wanted(store, group, &entry) == QL_WANTED_NOT) break;
        if (bytes < bytes_max / 2) group->ahead_halfway = sequence;
        bytes += (uint64_t)entry.envelope_size + entry.payload_size;
        sequence = ql_entry_end(&entry);
    }
    group->ahead = sequence;
}

/* Whether a filter that the group keeps takes a message of the batch. */
static bool
fetch_is_taken(const struct ql_group *group, const struct qbatch *batch)
{
    uint64_t others = qbatch_others(batch, q_bytes_from(group->name, group->name_size));
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++) {
        if (group->filters.slots[i] == NULL) continue;
        struct qbatch_mask mask = qbatch_filter_mask(batch, &group->filters.slots[i]->filter);
        for (uint32_t j = 0; j < batch->message_count; j++) {
            struct qbatch_entry message;
            qbatch_entry_at(batch, j, &message);
            if ((message.tags & others) == 0 && qbatch_mask_passes(&mask, message.tags))
                return true;
        }
    }
    return false;
}

/* The payload too, unless no filter takes any of its messages, or that is not known yet. */
static enum ql_wanted
fetch_wanted(struct qlog_store *store, struct ql_group *group, const struct ql_entry *entry)
{
    bool whole = ql_filters_take_all(&group->filters);
    struct ql_batch_view view;
    enum q_err err = ql_reader_get(&store->reader, entry, whole, &view);
    if (err == Q_OK && !whole) {
        struct qbatch batch;
        struct q_bytes envelope = q_bytes_from(view.envelope, entry->envelope_size);
        if (qbatch_open_trusted(envelope, &batch) != Q_OK) return QL_WANTED_BEFORE;
        if (!fetch_is_taken(group, &batch)) return QL_WANTED_BEFORE;
        err = ql_reader_get(&store->reader, entry, true, &view);
    }
    if (err != Q_AGAIN) return QL_WANTED_BEFORE;
    return ql_reader_want(&store->reader, group->subject->id, entry, whole);
}
