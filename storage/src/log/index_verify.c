#include "log/index_verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qlog/guard.h>

#include "log/index_files.h"
#include "log/index_scan.h"

static enum q_err verify_file(
    struct ql_index_verify *verify, struct ql_index_files *files, struct ql_index_file *file);
static enum q_err verify_hashes(void *context);
static enum q_err verify_segment(
    const struct ql_index_verify *verify, const struct ql_index_file *file, bool *ret_same);

enum q_err
ql_index_verify(struct ql_index_verify *verify)
{
    struct ql_index_files files;
    ql_index_files_init(&files, verify->log, NULL, false);
    verify->checked = 0;
    enum q_err err = ql_index_files_open(&files);
    for (uint32_t i = 0; err == Q_OK && i < files.count; i++)
        err = verify_file(verify, &files, files.files[i]);
    ql_index_files_fini(&files);
    return err;
}

static enum q_err
verify_file(
    struct ql_index_verify *verify, struct ql_index_files *files, struct ql_index_file *file)
{
    const char *what = NULL;
    enum q_err err = ql_index_files_view(files, file);
    if (err == Q_OK) err = qlog_guard(verify_hashes, &file->view);
    if (err != Q_OK && err != Q_E_CORRUPT && err != Q_E_IO) return err;
    if (err != Q_OK) what = "is damaged";
    if (err == Q_OK && verify->deep) {
        bool same;
        Q_TRY(verify_segment(verify, file, &same));
        if (!same) what = "does not say what its segment says";
    }
    verify->checked++;
    if (what == NULL || !ql_index_files_has(files, file)) return Q_OK;
    verify->on_finding(
        verify->context, file->view.header.base,
        q_text("index-%06u %s; the next start makes it again", file->number, what));
    return Q_OK;
}

static enum q_err
verify_hashes(void *context)
{
    return ql_index_view_check(context);
}

/* A segment that is damaged itself says less than its index: that is told of the log. */
static enum q_err
verify_segment(
    const struct ql_index_verify *verify, const struct ql_index_file *file, bool *ret_same)
{
    const struct ql_log *log = verify->log;
    const struct ql_index_header *header = &file->view.header;
    const struct ql_segment *segment = ql_segment_set_find(&log->segments, header->base);
    struct ql_index_build build;
    *ret_same = true;
    Q_TRY(ql_index_rebuild(log->env, log->name, &log->segments, segment, header->end, &build));
    bool damaged = build.header.rot_from < build.header.rot_to || header->rot_from < header->rot_to;
    build.header.created_ms = header->created_ms;
    ql_index_header_encode(&build.header, build.file);
    if (!damaged)
        *ret_same = build.file_size == file->view.layout.file_size &&
                    memcmp(build.file, file->view.file, build.file_size) == 0;
    free(build.file);
    return Q_OK;
}
