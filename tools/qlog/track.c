/*
 * track.c: `qlog track`: one message: where it lies, and all that the action log says about it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <qbase/text.h>

#include "consume/group.h"
#include "format/record.h"
#include "json.h"
#include "messages.h"

enum {
    TIME_SIZE = 32
};

/* Where the message is, for one group. */
enum place {
    PLACE_WAITING,
    PLACE_HELD,
    PLACE_PENDING,
    PLACE_DONE,
    PLACE_PASSED,
    PLACE_BELOW,
};

static const char *const place_texts[] = {
    [PLACE_WAITING] = "waits: not handed out yet",
    [PLACE_HELD] = "in the hands of a consumer",
    [PLACE_PENDING] = "came back, waits for another consumer",
    [PLACE_DONE] = "done",
    [PLACE_PASSED] = "passed over: the group's filter does not take it",
    [PLACE_BELOW] = "below the cursor that the group began with: done before, or never its own",
};

struct group_track {
    bool known; /* the group is one of the message's subject */
    enum place place;
    uint32_t consumer_id;
    uint64_t pull_sequence;
    uint64_t until_ms;
};

struct track {
    bool json;
    struct json out;
    struct names names;
    struct message message; /* its views are not valid */
    char subject[QLOG_SUBJECT_MAX + 1];
    struct q_bytes subject_name;
    struct group_track *groups; /* by id */
    uint32_t group_count;
};

static enum q_err find_message(
    struct track *track, const char *directory, const char *wanted, bool *ret_damaged);
static bool parse_place(
    const char *wanted, char subject[QLOG_SUBJECT_MAX + 1], uint64_t *ret_sequence);
static void print_message(struct track *track, const struct message *message);
static enum q_err follow(struct track *track, const char *directory, bool *ret_damaged);
static enum q_err follow_record(struct track *track, const struct qlog_record *record);
static enum q_err need_group(struct track *track, uint32_t id, struct group_track **ret_group);
static void tell(
    struct track *track,
    const struct qlog_record *record,
    uint32_t group_id,
    const struct group_track *group,
    const char *what);
static void print_groups(struct track *track);

enum tool_exit
track_run(const struct command *command, int argc, char **argv)
{
    const char *format = "text";
    const struct q_opt options[] = { FORMAT_OPTION(format) };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(command, options, 1, &format, argc, argv, &line, &code)) return code;
    struct track track = { .json = line.json };
    bool damaged = false;
    enum q_err err = find_message(&track, line.directory, line.arguments[0], &damaged);
    if (err == Q_OK) {
        err = follow(&track, line.directory, &damaged);
        if (track.json) json_close(&track.out, ']');
        if (err == Q_OK) print_groups(&track);
        if (track.json) {
            json_close(&track.out, '}');
            (void)putchar('\n');
        }
    }
    /* What was printed of the object stands closed before an error of its own. */
    code = err != Q_OK ? report(err, line.json) : damaged ? TOOL_EXIT_CORRUPT : TOOL_EXIT_OK;
    if (damaged)
        (void)fprintf(stderr, "qlog: a log is damaged: what those ranges held is not told\n");
    names_fini(&track.names);
    free(track.groups);
    return code;
}

static enum q_err
find_message(struct track *track, const char *directory, const char *wanted, bool *ret_damaged)
{
    struct message_options options = { .to = UINT64_MAX, .limit = 1 };
    struct qbatch_id id;
    bool by_place = false;
    if (qbatch_id_parse(wanted, &id) == Q_OK)
        options.id = wanted;
    else
        by_place = parse_place(wanted, track->subject, &options.from);
    if (options.id == NULL && !by_place)
        return Q_FAIL(
            Q_INVALID, .what = q_text("'%s' names no message", wanted),
            .hint = "give an id, as 20260111T041502.113Z-9f3c01ab22cd-1, or SUBJECT@SEQUENCE");
    if (by_place) options.to = options.from;
    struct messages messages;
    Q_TRY(messages_open(&messages, directory, by_place ? track->subject : NULL, &options));
    struct message message;
    enum q_err err;
    do {
        struct qlog_damage damage;
        err = messages_next(&messages, &message, &damage);
        if (err == Q_E_CORRUPT) *ret_damaged = true;
    } while (err == Q_E_CORRUPT);
    if (err == Q_OK) print_message(track, &message);
    messages_close(&messages);
    if (err != Q_END) return err;
    return Q_FAIL(
        Q_NOT_FOUND, .path = directory, .what = q_text("no message %s is stored here", wanted),
        .hint = *ret_damaged
                    ? "a part of the log is damaged, it may have been there: qlog verify DIR"
                    : "it was dropped, or never came; qlog ls DIR lists what there is");
}

/* SUBJECT@SEQUENCE */
static bool
parse_place(const char *wanted, char subject[QLOG_SUBJECT_MAX + 1], uint64_t *ret_sequence)
{
    const char *at = strrchr(wanted, '@');
    if (at == NULL || at == wanted || at - wanted > QLOG_SUBJECT_MAX) return false;
    memcpy(subject, wanted, (size_t)(at - wanted));
    subject[at - wanted] = '\0';
    return q_text_parse_u64(at + 1, 0, UINT64_MAX - 1, ret_sequence) == Q_OK;
}

static void
print_message(struct track *track, const struct message *message)
{
    track->message = *message;
    size_t size = (size_t)q_min_u64(message->subject.size, QLOG_SUBJECT_MAX);
    memmove(track->subject, message->subject.data, size);
    track->subject_name = q_bytes_from(track->subject, size);
    char id[QBATCH_ID_TEXT_SIZE];
    char created[TIME_SIZE];
    char stored[TIME_SIZE];
    if (track->json) {
        json_open(&track->out, NULL, '{');
        json_name(&track->out, "message", "");
        message_print_json(message, false);
        json_open(&track->out, "actions", '[');
        return;
    }
    (void)printf("%s  ", qbatch_id_format(&message->view.id, id));
    print_name(stdout, message->subject);
    (void)printf("@%" PRIu64 "  %zu bytes\n", message->sequence, message->view.body.size);
    (void)printf(
        "  %s  created by its producer\n  %s  stored at %" PRIu64 ":%u, message %u of %u of its "
        "batch\n",
        q_text_format_time(message->view.entry.time_ms, created, sizeof(created)),
        q_text_format_time(message->store_ms, stored, sizeof(stored)), message->frame.value,
        message->record, message->view.index + 1, message->batch->message_count);
}

static enum q_err
follow(struct track *track, const char *directory, bool *ret_damaged)
{
    struct qlog_cursor *cursor;
    Q_TRY(qlog_cursor_open(directory, "action", (qlog_position){ 0 }, &cursor));
    enum q_err err;
    do {
        struct qlog_record record;
        struct qlog_damage damage;
        err = qlog_cursor_next(cursor, &record, &damage);
        if (err == Q_OK) err = follow_record(track, &record);
        if (err != Q_E_CORRUPT) continue;
        *ret_damaged = true;
        err = Q_OK;
    } while (err == Q_OK);
    if (err == Q_END) print_end(cursor);
    qlog_cursor_close(cursor);
    return err == Q_END ? Q_OK : err;
}

static bool
holds(uint64_t first, uint64_t count, uint64_t wanted)
{
    return wanted >= first && wanted - first < count;
}

static enum q_err
follow_pull(struct track *track, const struct qlog_record *record)
{
    struct ql_pull_record pull;
    Q_TRY(ql_pull_record_decode(record->bytes, &pull));
    struct group_track *group;
    Q_TRY(need_group(track, pull.group_id, &group));
    uint64_t sequence = track->message.sequence;
    uint64_t pull_sequence = pull.first_pull_sequence;
    for (uint32_t i = 0; group->known && i < pull.run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(&pull, i);
        if (holds(run.sequence, run.count, sequence)) {
            group->place = PLACE_HELD;
            group->consumer_id = pull.consumer_id;
            group->pull_sequence = pull_sequence + (sequence - run.sequence);
            group->until_ms = pull.until_ms;
            tell(
                track, record, pull.group_id, group,
                q_text("handed out, attempt %u", ql_uses_attempt(run.uses)));
            if (pull.once) group->place = PLACE_DONE;
        }
        pull_sequence += run.count;
    }
    for (uint32_t i = 0; group->known && i < pull.pass_count; i++) {
        struct ql_pass pass = ql_pull_pass_at(&pull, i);
        if (!holds(pass.sequence, pass.count, sequence)) continue;
        group->place = PLACE_PENDING;
        group->consumer_id = (uint32_t)QL_CONSUMER_NONE;
        tell(
            track, record, pull.group_id, group,
            pass.reason == QL_REASON_KEY ? "waits for an earlier message of its order key"
                                         : "waits for a member whose filter takes it");
    }
    if (group->known && group->place == PLACE_WAITING && pull.cursor > sequence) {
        group->place = PLACE_PASSED;
        group->consumer_id = pull.consumer_id;
        tell(track, record, pull.group_id, group, "passed over by the group's filter");
    }
    return Q_OK;
}

static enum q_err
follow_ack(struct track *track, const struct qlog_record *record)
{
    struct ql_ack_record ack;
    Q_TRY(ql_ack_record_decode(record->bytes, &ack));
    struct group_track *group;
    Q_TRY(need_group(track, ack.group_id, &group));
    /* Also what came back may be acknowledged in time, by who had it last. */
    bool open = group->place == PLACE_HELD || group->place == PLACE_PENDING;
    for (uint32_t i = 0; open && group->consumer_id == ack.consumer_id && i < ack.range_count; i++)
    {
        struct qlog_range range = ql_ack_range_at(&ack, i);
        if (group->pull_sequence < range.first || group->pull_sequence > range.last) continue;
        group->place = PLACE_DONE;
        tell(track, record, ack.group_id, group, "acknowledged");
        break;
    }
    return Q_OK;
}

/* Given back, or with no time left: the same for who follows a message. */
static enum q_err
follow_timeout(struct track *track, const struct qlog_record *record)
{
    struct ql_timeout_record timeout;
    Q_TRY(ql_timeout_record_decode(record->bytes, &timeout));
    struct group_track *group;
    Q_TRY(need_group(track, timeout.group_id, &group));
    if (group->place != PLACE_HELD || group->consumer_id != timeout.consumer_id) return Q_OK;
    if (group->until_ms == 0 || group->until_ms > timeout.now_ms) return Q_OK;
    group->place = PLACE_PENDING;
    tell(track, record, timeout.group_id, group, "its invisible time is over");
    return Q_OK;
}

static enum q_err
follow_release(struct track *track, const struct qlog_record *record)
{
    static const char *const reasons[] = { "?", "its consumer died", "its consumer left",
                                           "its consumer was forgotten" };
    struct ql_release_record release;
    Q_TRY(ql_release_record_decode(record->bytes, &release));
    struct group_track *group;
    Q_TRY(need_group(track, release.group_id, &group));
    if (group->place != PLACE_HELD || group->consumer_id != release.consumer_id) return Q_OK;
    group->place = PLACE_PENDING;
    tell(
        track, record, release.group_id, group,
        q_text("released: %s", reasons[release.reason <= 3 ? release.reason : 0]));
    return Q_OK;
}

/* A negative ack, in the hands of a consumer. */
static enum q_err
follow_nack(struct track *track, const struct qlog_record *record)
{
    struct ql_nack_record nack;
    Q_TRY(ql_nack_record_decode(record->bytes, &nack));
    struct group_track *group;
    Q_TRY(need_group(track, nack.ack.group_id, &group));
    if (group->place != PLACE_HELD || group->consumer_id != nack.ack.consumer_id) return Q_OK;
    for (uint32_t i = 0; i < nack.ack.range_count; i++) {
        struct qlog_range range = ql_ack_range_at(&nack.ack, i);
        if (group->pull_sequence < range.first || group->pull_sequence > range.last) continue;
        group->place = PLACE_PENDING;
        tell(
            track, record, nack.ack.group_id, group,
            q_text("failed: %.*s", (int)nack.error.size, (const char *)nack.error.data));
        break;
    }
    return Q_OK;
}

static enum q_err
follow_resolve(struct track *track, const struct qlog_record *record)
{
    static const char *const verdicts[] = { "?", "it is a dead letter now",
                                            "retention drops it, it is a dead letter now",
                                            "skipped", "sent again" };
    struct ql_resolve_record resolve;
    Q_TRY(ql_resolve_record_decode(record->bytes, &resolve));
    struct group_track *group;
    Q_TRY(need_group(track, resolve.group_id, &group));
    for (uint32_t i = 0; group->known && i < resolve.item_count; i++) {
        struct ql_resolve_item item = ql_resolve_item_at(&resolve, i);
        if (!holds(item.first, item.last - item.first + 1, track->message.sequence)) continue;
        group->place = resolve.verdict == QL_VERDICT_RESENT ? PLACE_PENDING : PLACE_DONE;
        group->consumer_id = (uint32_t)QL_CONSUMER_NONE;
        tell(track, record, resolve.group_id, group, verdicts[resolve.verdict]);
    }
    return Q_OK;
}

/* The group begins again somewhere. */
static enum q_err
follow_seek(struct track *track, const struct qlog_record *record)
{
    struct ql_seek_record seek;
    Q_TRY(ql_seek_record_decode(record->bytes, &seek));
    struct group_track *group;
    Q_TRY(need_group(track, seek.group_id, &group));
    if (!group->known) return Q_OK;
    group->place = seek.cursor > track->message.sequence ? PLACE_BELOW : PLACE_WAITING;
    group->consumer_id = (uint32_t)QL_CONSUMER_NONE;
    tell(
        track, record, seek.group_id, group,
        q_text("the group was moved to %llu", (unsigned long long)seek.cursor));
    return Q_OK;
}

static enum q_err
follow_delete(struct track *track, const struct qlog_record *record)
{
    struct ql_delete_record deleted;
    Q_TRY(ql_delete_record_decode(record->bytes, &deleted));
    struct group_track *group;
    Q_TRY(need_group(track, deleted.group_id, &group));
    /* Its number may be another's from here on. */
    *group = (struct group_track){ 0 };
    return Q_OK;
}

/* The state of a group at the time when older actions were dropped. */
static enum q_err
follow_ranges(struct track *track, const struct qlog_record *record, enum place place)
{
    struct ql_ranges_record ranges;
    Q_TRY(ql_ranges_record_decode(record->bytes, &ranges));
    struct group_track *group;
    Q_TRY(need_group(track, ranges.group_id, &group));
    for (uint32_t i = 0; group->known && i < ranges.item_count; i++) {
        struct ql_range_item item = ql_range_item_at(&ranges, i);
        if (!holds(item.sequence, item.count, track->message.sequence)) continue;
        group->place = place;
        group->consumer_id = item.consumer_id;
        group->until_ms = place == PLACE_HELD ? item.time_ms : 0;
        group->pull_sequence = item.pull_sequence + (track->message.sequence - item.sequence);
        tell(
            track, record, ranges.group_id, group,
            q_text(
                "stated: %s, attempt %u", place == PLACE_HELD ? "in hand" : "pending",
                ql_uses_attempt(item.uses)));
    }
    return Q_OK;
}

static enum q_err
follow_group(struct track *track, const struct qlog_record *record)
{
    struct ql_group_record made;
    Q_TRY(ql_group_record_decode(record->bytes, &made));
    if (!q_bytes_equal(made.subject, track->subject_name)) return Q_OK;
    struct group_track *group;
    Q_TRY(need_group(track, made.group_id, &group));
    if (group->known) return Q_OK;
    group->known = true;
    /* Made behind the message, or stated when it was done; unless what follows says otherwise. */
    if (made.cursor > track->message.sequence) group->place = PLACE_BELOW;
    return Q_OK;
}

static enum q_err
follow_record(struct track *track, const struct qlog_record *record)
{
    Q_TRY(names_learn(&track->names, record));
    switch (record->kind) {
    case QL_RECORD_GROUP:
        return follow_group(track, record);
    case QL_RECORD_PULL:
        return follow_pull(track, record);
    case QL_RECORD_ACK:
        return follow_ack(track, record);
    case QL_RECORD_RELEASE:
        return follow_release(track, record);
    case QL_RECORD_TIMEOUT:
        return follow_timeout(track, record);
    case QL_RECORD_NACK:
        return follow_nack(track, record);
    case QL_RECORD_RESOLVE:
        return follow_resolve(track, record);
    case QL_RECORD_SEEK:
        return follow_seek(track, record);
    case QL_RECORD_DELETE:
        return follow_delete(track, record);
    case QL_RECORD_HELD:
        return follow_ranges(track, record, PLACE_HELD);
    case QL_RECORD_PENDING:
        return follow_ranges(track, record, PLACE_PENDING);
    default:
        return Q_OK;
    }
}

static enum q_err
need_group(struct track *track, uint32_t id, struct group_track **ret_group)
{
    enum {
        IDS_MAX = 16 * 1024 * 1024
    };
    if (id >= IDS_MAX) return Q_FAIL(Q_E_CORRUPT, .what = q_text("group id %u", id));
    if (id >= track->group_count) {
        uint32_t count = (id + 1) * 2;
        struct group_track *groups = realloc(track->groups, count * sizeof(*groups));
        if (groups == NULL) return Q_FAIL(Q_E_NOMEM, .what = "table of groups");
        memset(groups + track->group_count, 0, (count - track->group_count) * sizeof(*groups));
        track->groups = groups;
        track->group_count = count;
    }
    *ret_group = &track->groups[id];
    return Q_OK;
}

static void
tell(
    struct track *track,
    const struct qlog_record *record,
    uint32_t group_id,
    const struct group_track *group,
    const char *what)
{
    struct q_bytes name = names_of(&track->names, (struct name_key){ NAME_GROUP, group_id, 0 });
    struct q_bytes consumer =
        names_of(&track->names, (struct name_key){ NAME_CONSUMER, group_id, group->consumer_id });
    if (track->json) {
        struct json *out = &track->out;
        json_open(out, NULL, '{');
        json_time(out, "time", record->wall_ms);
        json_bytes(out, "group", name);
        json_bytes(out, "consumer", consumer);
        json_text(out, "what", q_bytes_from_text(what));
        json_text(out, "kind", q_bytes_from_text(qlog_record_name(record)));
        json_number(out, "pull_sequence", group->pull_sequence);
        json_number(out, "position", record->frame.value);
        json_number(out, "index", record->index);
        json_close(out, '}');
        return;
    }
    char time[TIME_SIZE];
    (void)printf("  %s  group ", q_text_format_time(record->wall_ms, time, sizeof(time)));
    print_name(stdout, name);
    (void)printf(": %s  consumer ", what);
    print_name(stdout, consumer);
    (void)printf(
        "  pull sequence %" PRIu64 "  at %" PRIu64 ":%u\n", group->pull_sequence,
        record->frame.value, record->index);
}

static void
print_groups(struct track *track)
{
    if (track->json) json_open(&track->out, "groups", '[');
    bool any = false;
    for (uint32_t i = 0; i < track->group_count; i++) {
        const struct group_track *group = &track->groups[i];
        if (!group->known) continue;
        any = true;
        struct q_bytes name = names_of(&track->names, (struct name_key){ NAME_GROUP, i, 0 });
        if (track->json) {
            json_open(&track->out, NULL, '{');
            json_bytes(&track->out, "group", name);
            json_text(&track->out, "state", q_bytes_from_text(place_texts[group->place]));
            json_close(&track->out, '}');
        } else {
            (void)printf("  now: group ");
            print_name(stdout, name);
            (void)printf(": %s\n", place_texts[group->place]);
        }
    }
    if (track->json)
        json_close(&track->out, ']');
    else if (!any)
        (void)printf("  now: no group consumes its subject\n");
}
