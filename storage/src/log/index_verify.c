#include "log/index_verify.h"

#include <stdlib.h>
#include <string.h>

#include <qlog/guard.h>

#include "log/index.h"

static enum q_err witness_compare(struct ql_index_witness *witness, struct ql_index_build *build);
static enum q_err compare_bytes(void *context);
static enum q_err check_hashes(void *context);

enum q_err
ql_index_verify_open(struct ql_log *log, struct ql_index_files *ret_files)
{
    ql_index_files_init(ret_files, log, NULL, false);
    enum q_err err = ql_index_files_open(ret_files);
    for (uint32_t i = 0; err == Q_OK && i < ret_files->count; i++) {
        /* One that is lost meanwhile has no bytes, and that is what is said of it. */
        err = ql_index_files_view(ret_files, ret_files->files[i]);
        if (ql_index_is_damaged(err)) err = Q_OK;
    }
    if (err != Q_OK) ql_index_files_fini(ret_files);
    return err;
}

void
ql_index_witness_init(
    struct ql_index_witness *witness,
    const struct ql_index_files *files,
    struct ql_env *env,
    const struct ql_segment_set *segments,
    uint64_t base)
{
    *witness = (struct ql_index_witness){
        .file = ql_index_files_of(files, base),
        .env = env,
        .log = files->log->name,
        .segments = segments,
    };
    const struct ql_segment *segment = ql_segment_set_find(segments, base);
    ql_index_collect_init(&witness->collect, env, witness->log, segment);
    if (witness->file == NULL) return;
    const struct ql_index_header *header = &witness->file->view.header;
    witness->damaged = header->rot_from < header->rot_to;
}

void
ql_index_witness_fini(struct ql_index_witness *witness)
{
    ql_index_collect_fini(&witness->collect);
}

enum q_err
ql_index_witness_frame(struct ql_index_witness *witness, const struct ql_scan *scan)
{
    if (witness->file == NULL || witness->compared || witness->damaged) return Q_OK;
    uint64_t end = witness->file->view.header.end;
    uint64_t frame_end = scan->frame.position + ql_frame_size(scan->frame.body_length);
    if (scan->frame.position >= end) return Q_OK;
    Q_TRY(ql_index_collect_add(&witness->collect, scan));
    if (frame_end != end) return Q_OK;
    struct ql_index_build build;
    Q_TRY(ql_index_collect_build(&witness->collect, end, &build));
    enum q_err err = witness_compare(witness, &build);
    ql_index_collect_fini(&witness->collect);
    return err;
}

/* `build->file` is given back. */
static enum q_err
witness_compare(struct ql_index_witness *witness, struct ql_index_build *build)
{
    const struct ql_index_file *file = witness->file;
    bool damaged = build->header.rot_from < build->header.rot_to;
    build->header.created_ms = file->view.header.created_ms;
    ql_index_header_encode(&build->header, build->file);
    struct q_bytes bytes[] = {
        q_bytes_from(build->file, build->file_size),
        q_bytes_from(file->view.file, file->view.layout.file_size),
    };
    bool lost = bytes[1].data == NULL;
    enum q_err err = damaged || lost ? Q_OK : qlog_guard(compare_bytes, bytes);
    if (err == Q_NOT_FOUND) witness->what = "does not say what its segment says";
    witness->compared = true;
    free(build->file);
    return err < Q_OK && err != Q_E_IO ? err : Q_OK;
}

static enum q_err
compare_bytes(void *context)
{
    const struct q_bytes *bytes = context;
    return q_bytes_equal(bytes[0], bytes[1]) ? Q_OK : Q_NOT_FOUND;
}

void
ql_index_witness_rot(struct ql_index_witness *witness, uint64_t from, uint64_t to)
{
    if (witness->file == NULL) return;
    const struct ql_index_header *header = &witness->file->view.header;
    if (from < header->end && to > header->base) witness->damaged = true;
}

enum q_err
ql_index_witness_end(struct ql_index_witness *witness, bool deep)
{
    struct ql_index_file *file = witness->file;
    if (file == NULL) return Q_OK;
    enum q_err err = Q_E_CORRUPT;
    if (file->view.file != NULL) err = qlog_guard(check_hashes, &file->view);
    if (err != Q_OK && !ql_index_is_damaged(err)) return err;
    if (err != Q_OK) witness->what = "is damaged";
    if (err != Q_OK || !deep || witness->compared || witness->damaged) return Q_OK;
    const struct ql_index_header *header = &file->view.header;
    const struct ql_segment *segment = ql_segment_set_find(witness->segments, header->base);
    struct ql_index_build build;
    Q_TRY(ql_index_rebuild(
        witness->env, witness->log, witness->segments, segment, header->end, &build));
    return witness_compare(witness, &build);
}

static enum q_err
check_hashes(void *context)
{
    return ql_index_view_check(context);
}
