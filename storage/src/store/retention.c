#include "store/retention.h"

#include <string.h>

#include "planted.h"
#include "store/store.h"

enum {
    AGE_DEFAULT_H = 72,
    LOOK_S = 1,
    REST = 9,            /* times as long as a pass took, before the next */
    AGED_S = 10,         /* between segments that go by age */
    PASS_SUBJECTS = 512, /* in a turn */
    SOFT_PERCENT = 15,
    HARD_PERCENT = 5,
};

#define SOFT_BYTES_MAX (20ull << 30)
#define HARD_BYTES_MAX (2ull << 30)

static const char *const level_names[] = { "normal", "soft", "hard" };

static void retention_look_at_disk(struct qlog_store *store);
static bool retention_asks_groups(const struct qlog_store *store);
static void retention_trim(struct qlog_store *store);
static void retention_pass(struct qlog_store *store);
static uint64_t subject_needs(struct qlog_store *store, struct ql_subject *subject);
static uint64_t retention_messages(struct qlog_store *store);
static bool retention_archived(struct qlog_store *store, const struct ql_segment *segment);
static uint64_t retention_actions(const struct qlog_store *store);
static void retention_on_trimmed(struct qlog_request *request, enum q_err err);

void
ql_retention_init(struct ql_retention *retention, const struct qlog_store_options *options)
{
    *retention = (struct ql_retention){
        .age_ms = options->retention_ms,
        .bytes = options->retention_bytes == 0 ? UINT64_MAX : options->retention_bytes,
        .consumed = options->retention_consumed,
        .soft_bytes = options->disk_soft_bytes,
        .hard_bytes = options->disk_hard_bytes,
        .archive = options->archive,
    };
    if (retention->age_ms == 0) retention->age_ms = AGE_DEFAULT_H * 3600ull * Q_MS_PER_S;
}

enum q_err
ql_retention_admits(const struct qlog_store *store)
{
    if (store->retention.level < QL_DISK_HARD || QL_PLANTED(full_disk_admits)) return Q_OK;
    return Q_FAIL(
        Q_STORAGE_FULL, .path = store->home->env.path,
        .what = "too little space is left on the disk; publishes are refused until more is free");
}

void
ql_retention_step(struct qlog_store *store)
{
    struct ql_retention *retention = &store->retention;
    if (store->now_ns < retention->next_ns) return;
    if (!retention->passing) {
        retention_look_at_disk(store);
        /* Where it matters what groups need, that is found out first. */
        retention->passing = true;
        retention->pass_began_ns = store->now_ns;
        retention->pass_next = retention_asks_groups(store) ? 0 : store->index.count;
        retention->needed = UINT64_MAX;
    }
    retention_pass(store);
    if (retention->passing) return;
    uint64_t took_ns = store->now_ns - retention->pass_began_ns;
    retention->next_ns = store->now_ns + q_max_u64(LOOK_S * (uint64_t)Q_NS_PER_S, REST * took_ns);
    if (!retention->trimming) retention_trim(store);
}

void
ql_retention_group_went_back(struct qlog_store *store, struct ql_subject *subject)
{
    struct ql_retention *retention = &store->retention;
    if (retention->passing)
        retention->needed = q_min_u64(retention->needed, subject_needs(store, subject));
}

static bool
retention_asks_groups(const struct qlog_store *store)
{
    const struct ql_retention *retention = &store->retention;
    return (retention->consumed || retention->level >= QL_DISK_SOFT) &&
           store->messages->segments.count > 1;
}

static void
retention_trim(struct qlog_store *store)
{
    struct ql_retention *retention = &store->retention;
    uint64_t messages = retention_messages(store);
    uint64_t actions = retention_actions(store);
    if (ql_log_drop_end(store->messages, messages) == store->messages->segments.segments[0]->base &&
        ql_log_drop_end(store->actions, actions) == store->actions->segments.segments[0]->base)
        return;
    retention->trimming = true;
    retention->trim = (struct qlog_trim){
        .request = { .kind = QLOG_TRIM, .done = retention_on_trimmed, .context = store },
        .messages_before = { messages },
        .actions_before = { actions },
    };
    ql_trim_start(store, &retention->trim);
}

static void
retention_look_at_disk(struct qlog_store *store)
{
    struct ql_retention *retention = &store->retention;
    const struct ql_env *env = &store->home->env;
    uint64_t free_bytes = 0;
    uint64_t total = 0;
    /* A file system that does not tell, and a quota, are met by the logs. */
    bool told = env->io->table->space(env->io, env->path, &free_bytes, &total) >= 0;
    bool short_ = ql_log_is_short(store->messages) || ql_log_is_short(store->actions);
    uint64_t soft = q_min_u64(total / 100 * SOFT_PERCENT, SOFT_BYTES_MAX);
    uint64_t hard = q_min_u64(total / 100 * HARD_PERCENT, HARD_BYTES_MAX);
    if (retention->soft_bytes != 0) soft = retention->soft_bytes;
    if (retention->hard_bytes != 0) hard = retention->hard_bytes;
    enum ql_disk_level level = QL_DISK_NORMAL;
    if (short_ || (told && free_bytes < soft)) level = QL_DISK_SOFT;
    if (told && free_bytes < hard) level = QL_DISK_HARD;
    if (level == retention->level) return;
    retention->level = level;
    QL_TELL(
        env, DISK_LEVEL, .path = env->path, .bytes = free_bytes,
        .text = q_text(
            "%s: %llu MiB free; soft below %llu, hard below %llu%s%s", level_names[level],
            (unsigned long long)(free_bytes >> 20), (unsigned long long)(soft >> 20),
            (unsigned long long)(hard >> 20),
            short_ ? "; there is no room for a log's next segment" : "",
            level == QL_DISK_HARD ? "; publishes are refused" : ""));
}

static void
retention_pass(struct qlog_store *store)
{
    struct ql_retention *retention = &store->retention;
    const struct ql_index *index = &store->index;
    uint64_t end = q_min_u64(index->count, (uint64_t)retention->pass_next + PASS_SUBJECTS);
    for (; retention->pass_next < end; retention->pass_next++) {
        struct ql_subject *subject = index->subjects[retention->pass_next];
        if (subject != NULL)
            retention->needed = q_min_u64(retention->needed, subject_needs(store, subject));
    }
    retention->passing = retention->pass_next < index->count;
}

/* Position of the oldest message that some group has not consumed; UINT64_MAX: none. */
static uint64_t
subject_needs(struct qlog_store *store, struct ql_subject *subject)
{
    uint64_t oldest = q_list_is_empty(&subject->groups) ? 0 : UINT64_MAX;
    q_list_for_each(link, &subject->groups) {
        const struct ql_group *group = q_container_of(link, struct ql_group, subject_link);
        oldest = q_min_u64(oldest, ql_group_oldest(group));
    }
    struct ql_entry entry;
    enum q_err err = ql_index_entry(&store->index, subject, oldest, &entry);
    if (err == Q_NOT_FOUND) return UINT64_MAX;
    /* Where it is can't be told now, so nothing may go. */
    return err == Q_OK ? entry.frame : 0;
}

/* Where the message log is to begin. */
static uint64_t
retention_messages(struct qlog_store *store)
{
    struct ql_retention *retention = &store->retention;
    const struct ql_segment_set *set = &store->messages->segments;
    uint64_t now_ms = q_clock_wall_ms(store->clock);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < set->count; i++)
        bytes += set->segments[i]->file_size;
    uint64_t first = set->segments[0]->base;
    for (uint32_t i = 0; i + 1 < set->count; i++) {
        const struct ql_segment *segment = set->segments[i];
        const struct ql_segment *next = set->segments[i + 1];
        bool consumed = next->base <= retention->needed || QL_PLANTED(retention_unconsumed);
        /* Nothing in it is younger than the segment behind it. */
        bool old = next->opened_ms <= now_ms && now_ms - next->opened_ms >= retention->age_ms;
        bool aged = old && (retention->aged_ns == 0 ||
                            store->now_ns - retention->aged_ns >= AGED_S * (uint64_t)Q_NS_PER_S);
        bool pressed = retention->level >= QL_DISK_SOFT && consumed;
        if (!aged && bytes <= retention->bytes && !pressed) break;
        if (retention->consumed && !consumed) break;
        if (!retention_archived(store, segment)) break;
        if (aged && bytes <= retention->bytes && !pressed) retention->aged_ns = store->now_ns;
        bytes -= segment->file_size;
        first = next->base;
    }
    return first;
}

static bool
retention_archived(struct qlog_store *store, const struct ql_segment *segment)
{
    const struct qlog_archive *archive = store->retention.archive;
    if (archive == NULL || QL_PLANTED(archive_unasked)) return true;
    const struct ql_env *env = &store->home->env;
    char path[QL_PATH_MAX];
    ql_segment_path(env, store->messages->name, segment->number, path);
    enum q_err err = archive->take(archive->context, path, segment->base, segment->end);
    char line[Q_FAULT_LINE_MAX];
    if (err != Q_OK && err != Q_AGAIN)
        QL_TELL(
            env, ARCHIVE_FAILED, .log = store->messages->name, .path = path,
            .position = segment->base, .bytes = segment->file_size,
            .text = q_fault_format(q_fault_last(), line, sizeof(line)));
    return err == Q_OK;
}

static uint64_t
retention_actions(const struct qlog_store *store)
{
    const struct ql_segment_set *set = &store->actions->segments;
    if (set->count <= QL_ACTION_SEGMENTS) return set->segments[0]->base;
    return set->segments[set->count - QL_ACTION_SEGMENTS]->base;
}

static void
retention_on_trimmed(struct qlog_request *request, enum q_err err)
{
    struct qlog_store *store = request->context;
    store->retention.trimming = false;
    const struct ql_env *env = &store->home->env;
    /* Once, not each second; a log that broke tells it everywhere. */
    bool told = err == store->retention.failed || env->broken != Q_OK || err == Q_STOPPING;
    store->retention.failed = err;
    char line[Q_FAULT_LINE_MAX];
    if (err != Q_OK && !told)
        QL_TELL(
            env, RETENTION_FAILED, .log = store->messages->name, .path = env->path,
            .position = store->messages->segments.segments[0]->base,
            .text = q_fault_format(q_fault_last(), line, sizeof(line)));
    if (err != Q_OK) return;
    QL_TELL(
        env, DROPPED, .log = store->messages->name, .path = env->path,
        .position = store->messages->segments.segments[0]->base,
        .text = q_text(
            "retention: messages begin at %llu, actions at %llu",
            (unsigned long long)store->messages->segments.segments[0]->base,
            (unsigned long long)store->actions->segments.segments[0]->base));
}
