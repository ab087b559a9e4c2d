// A minimal durable subscriber: prints results, acknowledges each. Usage: durable ADDRESS NAME COUNT
#include "header.hpp"
#include <array>
#include <iostream>
#include <random>
#include <zmq_addon.hpp>

zmq::socket_t *host;

template <typename... Fields> void say(const std::string &kind, Fields... fields) {  // name, value, name, value ...
    msgpack::sbuffer header;
    msgpack::packer<msgpack::sbuffer> pack(header);
    pack.pack_map(2 + sizeof...(fields) / 2);
    pack.pack("schema"), pack.pack("edgead." + kind), pack.pack("version"), pack.pack(std::vector<int>{1, 0});
    (pack.pack(fields), ...);
    seal(header);
    std::string topic = "ead.v1." + kind;
    zmq::send_multipart(*host, std::array{zmq::const_buffer(topic.data(), topic.size()),
                                          zmq::const_buffer(header.data(), header.size())});
}

int main(int, char **argv) {
    zmq::context_t context;
    zmq::socket_t socket(context, zmq::socket_type::dealer);
    host = &socket;
    socket.set(zmq::sockopt::linger, 2000);   // ms to hand over the last acknowledgement
    socket.set(zmq::sockopt::rcvtimeo, 3500); // ms: a host says something every second
    socket.connect(argv[1]);
    std::random_device random;
    uint64_t session = (uint64_t(random()) << 32) | random(), acked = 0;
    say("subscribe", "name", argv[2], "session", session, "attempt", 1, "credit", 100, "start", "oldest");
    for (int left = std::stoi(argv[3]); left > 0;) {
        std::vector<zmq::message_t> parts;
        if (!zmq::recv_multipart(socket, std::back_inserter(parts)) || parts.size() < 2) return 1;
        std::string topic = parts[0].to_string();
        if (topic == "ead.v1.delivery") {
            Header delivery(parts[1], "edgead.delivery"), result(parts.at(2), "edgead.result");
            std::cout << "seq " << (acked = delivery.get<uint64_t>("seq")) << " historical "
                      << delivery.get<bool>("historical") << " verdict " << result.get<int>("verdict") << std::endl;
            left--;
        } else if (topic == "ead.v1.gap") {
            Header gap(parts[1], "edgead.gap");
            std::cout << "lost " << gap.get<uint64_t>("from_seq") << " to " << (acked = gap.get<uint64_t>("to_seq"))
                      << std::endl;
        } else if (topic == "ead.v1.subscribed") {
            acked = Header(parts[1], "edgead.subscribed").get<uint64_t>("acked");
        } else if (topic != "ead.v1.heartbeat") {
            return 1; // refused or closed: a better subscriber would subscribe again
        }
        say("ack", "seq", acked); // once it is processed; the answer to a heartbeat, too
    }
}
