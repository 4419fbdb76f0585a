/*
 * ops.c: the table of operations.
 */
#include <qproto/message.h>

/* protobuf-c spells descriptors in snake case, which the preprocessor can't derive. */
/* clang-format off */
#define AckAnswer_DESCRIPTOR              qmq__wire__ack_answer__descriptor
#define AckRequest_DESCRIPTOR             qmq__wire__ack_request__descriptor
#define ControlAnswer_DESCRIPTOR          qmq__wire__control_answer__descriptor
#define ControlRequest_DESCRIPTOR         qmq__wire__control_request__descriptor
#define DelayHistogramAnswer_DESCRIPTOR   qmq__wire__delay_histogram_answer__descriptor
#define DelayHistogramRequest_DESCRIPTOR  qmq__wire__delay_histogram_request__descriptor
#define DelayLagAnswer_DESCRIPTOR         qmq__wire__delay_lag_answer__descriptor
#define DelayListAnswer_DESCRIPTOR        qmq__wire__delay_list_answer__descriptor
#define DelayListRequest_DESCRIPTOR       qmq__wire__delay_list_request__descriptor
#define DelayMessage_DESCRIPTOR           qmq__wire__delay_message__descriptor
#define DelayNameRequest_DESCRIPTOR       qmq__wire__delay_name_request__descriptor
#define DelayRescheduleAnswer_DESCRIPTOR  qmq__wire__delay_reschedule_answer__descriptor
#define DelayRescheduleRequest_DESCRIPTOR qmq__wire__delay_reschedule_request__descriptor
#define Empty_DESCRIPTOR                  qmq__wire__empty__descriptor
#define GroupsAnswer_DESCRIPTOR           qmq__wire__groups_answer__descriptor
#define GroupsRequest_DESCRIPTOR          qmq__wire__groups_request__descriptor
#define HelloAnswer_DESCRIPTOR            qmq__wire__hello_answer__descriptor
#define HelloRequest_DESCRIPTOR           qmq__wire__hello_request__descriptor
#define JoinAnswer_DESCRIPTOR             qmq__wire__join_answer__descriptor
#define JoinRequest_DESCRIPTOR            qmq__wire__join_request__descriptor
#define LagAnswer_DESCRIPTOR              qmq__wire__lag_answer__descriptor
#define LagRequest_DESCRIPTOR             qmq__wire__lag_request__descriptor
#define NackAnswer_DESCRIPTOR             qmq__wire__nack_answer__descriptor
#define NackRequest_DESCRIPTOR            qmq__wire__nack_request__descriptor
#define NodeRecord_DESCRIPTOR             qmq__wire__node_record__descriptor
#define NodesAnswer_DESCRIPTOR            qmq__wire__nodes_answer__descriptor
#define PeekRequest_DESCRIPTOR            qmq__wire__peek_request__descriptor
#define PublishAnswer_DESCRIPTOR          qmq__wire__publish_answer__descriptor
#define PublishRequest_DESCRIPTOR         qmq__wire__publish_request__descriptor
#define PullAnswer_DESCRIPTOR             qmq__wire__pull_answer__descriptor
#define PullRequest_DESCRIPTOR            qmq__wire__pull_request__descriptor
#define RegisterAnswer_DESCRIPTOR         qmq__wire__register_answer__descriptor
#define RouteAnswer_DESCRIPTOR            qmq__wire__route_answer__descriptor
#define RouteRequest_DESCRIPTOR           qmq__wire__route_request__descriptor
#define SessionRequest_DESCRIPTOR         qmq__wire__session_request__descriptor
/* clang-format on */

struct op {
    unsigned number;
    const char *name;
    const ProtobufCMessageDescriptor *request;
    const ProtobufCMessageDescriptor *answer;
};

static const struct op ops[] = {
#define OP_ROW(name, number, request, answer, role)                                                \
    { (number), #name, &request##_DESCRIPTOR, &answer##_DESCRIPTOR },
    QPROTO_OPS(OP_ROW)
#undef OP_ROW
};

static const struct op *find(unsigned number);

const char *
qproto_op_name(unsigned op)
{
    const struct op *found = find(op);
    return found ? found->name : "UNKNOWN";
}

const ProtobufCMessageDescriptor *
qproto_request_descriptor(unsigned op)
{
    const struct op *found = find(op);
    return found ? found->request : NULL;
}

const ProtobufCMessageDescriptor *
qproto_answer_descriptor(unsigned op)
{
    const struct op *found = find(op);
    return found ? found->answer : NULL;
}

static const struct op *
find(unsigned number)
{
    for (size_t index = 0; index < sizeof(ops) / sizeof(ops[0]); index++)
        if (ops[index].number == number) return &ops[index];
    return NULL;
}
