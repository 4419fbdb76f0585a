/*
 * qproto/ops.h: every operation of the wire, once.
 *
 * QPROTO_OPS(X) expands X(NAME, number, request message, answer message, role). Numbers are never
 * reused. An answer carries the operation of its request; its status is 0 and its header the
 * answer message, or its status is an error's number and its header an Error.
 */
#ifndef QPROTO_OPS_H
#define QPROTO_OPS_H

/* clang-format off */
#define QPROTO_OPS(X) \
    X(HELLO,            1, HelloRequest,   HelloAnswer,    "any") \
    X(PUBLISH,         16, PublishRequest, PublishAnswer,  "broker") \
    X(JOIN,            17, JoinRequest,    JoinAnswer,     "broker") \
    X(PULL,            18, PullRequest,    PullAnswer,     "broker") \
    X(ACK,             19, AckRequest,     AckAnswer,      "broker") \
    X(KEEP_ALIVE,      20, SessionRequest, Empty,          "broker") \
    X(LEAVE,           21, SessionRequest, Empty,          "broker") \
    X(PUBLISH_ONE_WAY, 22, PublishRequest, Empty,          "broker") \
    X(DELAY_CANCEL,    32, DelayNameRequest, Empty,        "delay") \
    X(DELAY_RESCHEDULE,33, DelayRescheduleRequest, DelayRescheduleAnswer, "delay") \
    X(DELAY_SHOW,      34, DelayNameRequest, DelayMessage, "delay") \
    X(DELAY_LIST,      35, DelayListRequest, DelayListAnswer, "delay") \
    X(DELAY_HISTOGRAM, 36, DelayHistogramRequest, DelayHistogramAnswer, "delay") \
    X(DELAY_LAG,       37, Empty,          DelayLagAnswer, "delay") \
    X(NACK,            40, NackRequest,    NackAnswer,     "broker") \
    X(GROUP_CONTROL,   41, ControlRequest, ControlAnswer,  "broker") \
    X(GROUP_LIST,      42, GroupsRequest,  GroupsAnswer,   "broker") \
    X(GROUP_LAG,       43, LagRequest,     LagAnswer,      "broker") \
    X(PEEK,            44, PeekRequest,    PullAnswer,     "broker") \
    X(META_REGISTER,   64, NodeRecord,     RegisterAnswer, "meta") \
    X(META_HEARTBEAT,  65, NodeRecord,     RegisterAnswer, "meta") \
    X(META_ROUTE,      66, RouteRequest,   RouteAnswer,    "meta") \
    X(META_NODES,      67, Empty,          NodesAnswer,    "meta")
/* clang-format on */

enum qproto_op {
#define QPROTO_OP_ENUM(name, number, request, answer, role) QPROTO_##name = (number),
    QPROTO_OPS(QPROTO_OP_ENUM)
#undef QPROTO_OP_ENUM
};

const char *qproto_op_name(unsigned op);

#endif /* QPROTO_OPS_H */
