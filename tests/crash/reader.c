#include "reader.h"

#include "segment/home.h"

struct reading {
    reader_fn *each;
    void *context;
};

static enum q_err
reader_on_frame(void *context, const struct ql_scan *scan)
{
    const struct reading *reading = context;
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    struct ql_record record;
    enum q_err err;
    while ((err = ql_record_next(&walk, &record)) == Q_OK)
        reading->each(reading->context, &scan->frame, &record);
    return err == Q_END ? Q_OK : err;
}

enum q_err
reader_run(
    struct qlog_io *io,
    const char *directory,
    unsigned index,
    reader_fn *each,
    void *context,
    struct reader_result *ret_result)
{
    struct ql_home *home;
    Q_TRY(ql_home_open_to_read(directory, io, &home));
    struct reading reading = { .each = each, .context = context };
    struct ql_recover recover;
    ql_home_recover_init(home, index, &recover);
    recover.deep = true;
    recover.context = &reading;
    recover.on_frame = reader_on_frame;
    enum q_err err = ql_recover(&recover);
    *ret_result = (struct reader_result){
        .end = recover.end,
        .torn_bytes = recover.torn_bytes,
        .rot_bytes = recover.rot_bytes,
    };
    (void)ql_home_close(home);
    return err;
}
