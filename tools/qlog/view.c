#include "view.h"

#include <inttypes.h>
#include <stdlib.h>

#include <qbase/text.h>

#include "command.h"
#include "format/record.h"

enum {
    TEXT_SIZE_FIRST = 4096,
    TIME_SIZE = 32
};

static enum q_err print_record(struct viewer *viewer, const struct qlog_record *record);
static enum q_err print_consume(struct viewer *viewer, const struct qlog_record *record);
static enum q_err print_pull(struct viewer *viewer, const struct qlog_record *record);

static const struct view views[] = {
    { "consume", "message", print_consume },
    { "pull", "action", print_pull },
    { NULL, NULL, print_record },
};

const struct view *
view_find(const char *log)
{
    const struct view *view = views;
    while (view->name != NULL && (log == NULL || strcmp(view->name, log) != 0))
        view++;
    return view;
}

void
viewer_fini(struct viewer *viewer)
{
    names_fini(&viewer->names);
    free(viewer->text);
}

/* A record as it is. */
static enum q_err
print_record(struct viewer *viewer, const struct qlog_record *record)
{
    bool decodes;
    for (;;) {
        decodes = qlog_record_describe(record, viewer->json, viewer->text, viewer->text_size);
        bool whole = viewer->text_size > 0 && strlen(viewer->text) + 1 < viewer->text_size;
        if (whole) break;
        size_t size = viewer->text_size == 0 ? TEXT_SIZE_FIRST : viewer->text_size * 2;
        char *text = realloc(viewer->text, size);
        if (text == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a record as text");
        viewer->text = text;
        viewer->text_size = size;
    }
    char time[TIME_SIZE];
    q_text_format_time(record->wall_ms, time, sizeof(time));
    if (viewer->json)
        (void)printf(
            "{\"position\":%" PRIu64 ",\"index\":%u,\"time\":\"%s\",\"time_ms\":%" PRIu64
            ",\"generation\":%" PRIu64 ",%s%s}\n",
            record->frame.value, record->index, time, record->wall_ms, record->generation,
            viewer->text, decodes ? "" : ",\"damaged\":true");
    else
        (void)printf(
            "%12" PRIu64 ":%-4u %s g%-3" PRIu64 " %s%s\n", record->frame.value, record->index, time,
            record->generation, viewer->text, decodes ? "" : "  does not decode");
    if (decodes) return Q_OK;
    return Q_FAIL(
        Q_E_CORRUPT, .position = (int64_t)record->frame.value,
        .what = q_text("record %u of a frame does not decode", record->index));
}

static void
print_member(const struct viewer *viewer, const char *before, struct q_bytes name)
{
    (void)fputs(before, stdout);
    if (viewer->json)
        q_text_write_json(stdout, name);
    else
        print_name(stdout, name);
}

/* The consume log: where each sequence of a subject is. */
static enum q_err
print_consume(struct viewer *viewer, const struct qlog_record *record)
{
    Q_TRY(names_learn(&viewer->names, record));
    if (record->kind != QL_RECORD_BATCH) return Q_OK;
    struct qbatch batch;
    Q_TRY(qbatch_open(record->bytes, &batch));
    struct name_key key = { NAME_SUBJECT, batch.subject_id, 0 };
    char time[TIME_SIZE];
    q_text_format_time(batch.store_time_ms, time, sizeof(time));
    uint64_t last = batch.first_sequence + batch.message_count - 1;
    print_member(viewer, viewer->json ? "{\"subject\":" : "", names_of(&viewer->names, key));
    if (viewer->json)
        (void)printf(
            ",\"first\":%" PRIu64 ",\"last\":%" PRIu64 ",\"position\":%" PRIu64
            ",\"index\":%u,\"time\":\"%s\",\"time_ms\":%" PRIu64 "}\n",
            batch.first_sequence, last, record->frame.value, record->index, time,
            batch.store_time_ms);
    else
        (void)printf(
            "  %" PRIu64 "-%" PRIu64 "  at %" PRIu64 ":%u  %s\n", batch.first_sequence, last,
            record->frame.value, record->index, time);
    return Q_OK;
}

/* The pull log: which messages each pull sequence of a consumer stands for. */
static enum q_err
print_pull(struct viewer *viewer, const struct qlog_record *record)
{
    Q_TRY(names_learn(&viewer->names, record));
    if (record->kind != QL_RECORD_PULL) return Q_OK;
    struct ql_pull_record pull;
    Q_TRY(ql_pull_record_decode(record->bytes, &pull));
    char time[TIME_SIZE];
    q_text_format_time(record->wall_ms, time, sizeof(time));
    uint64_t first = pull.first_pull_sequence;
    for (uint32_t i = 0; i < pull.run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(&pull, i);
        struct name_key subject = { NAME_GROUP_SUBJECT, pull.group_id, 0 };
        struct name_key group = { NAME_GROUP, pull.group_id, 0 };
        struct name_key consumer = { NAME_CONSUMER, pull.group_id, pull.consumer_id };
        bool json = viewer->json;
        print_member(viewer, json ? "{\"subject\":" : "", names_of(&viewer->names, subject));
        print_member(viewer, json ? ",\"group\":" : " ", names_of(&viewer->names, group));
        print_member(viewer, json ? ",\"consumer\":" : " ", names_of(&viewer->names, consumer));
        uint64_t last = first + run.count - 1;
        uint64_t last_sequence = run.sequence + run.count - 1;
        if (json)
            (void)printf(
                ",\"first_pull\":%" PRIu64 ",\"last_pull\":%" PRIu64 ",\"first\":%" PRIu64
                ",\"last\":%" PRIu64 ",\"attempt\":%u,\"position\":%" PRIu64
                ",\"index\":%u,\"time\":\"%s\",\"time_ms\":%" PRIu64 "}\n",
                first, last, run.sequence, last_sequence, ql_uses_attempt(run.uses),
                record->frame.value, record->index, time, record->wall_ms);
        else
            (void)printf(
                "  %" PRIu64 "-%" PRIu64 "  is %" PRIu64 "-%" PRIu64 "  attempt %u  at %" PRIu64
                ":%u  %s\n",
                first, last, run.sequence, last_sequence, ql_uses_attempt(run.uses),
                record->frame.value, record->index, time);
        first += run.count;
    }
    return Q_OK;
}
