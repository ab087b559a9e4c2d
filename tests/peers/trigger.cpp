// A minimal trigger source: raises one trigger, waits for its receipt. Usage: trigger ADDRESS CAMERA ID PART
#include "header.hpp"
#include <array>
#include <chrono>
#include <iostream>
#include <zmq_addon.hpp>

int main(int, char **argv) {
    zmq::context_t context;
    zmq::socket_t socket(context, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::linger, 2000);    // ms to hand over what is still queued at the end
    socket.set(zmq::sockopt::rcvtimeo, 10000); // ms to wait for the receipt: longer than the deadline
    socket.connect(argv[1]);
    uint64_t trigger_id = std::stoull(argv[3]);
    auto now = std::chrono::system_clock::now().time_since_epoch();
    msgpack::sbuffer header;
    msgpack::packer<msgpack::sbuffer> pack(header);
    auto field = [&pack](const char *name, auto value) { pack.pack(name); pack.pack(value); };
    pack.pack_map(6);
    field("schema", "edgead.trigger"), field("version", std::vector<int>{1, 1});
    field("camera", argv[2]), field("trigger_id", trigger_id), field("part_id", argv[4]);
    field("raised_ns", uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()));
    seal(header);
    zmq::send_multipart(socket, std::array{zmq::const_buffer("ead.v1.trigger", 14),
        zmq::const_buffer(header.data(), header.size())});
    std::vector<zmq::message_t> parts;
    if (!zmq::recv_multipart(socket, std::back_inserter(parts)) || parts.size() != 2) return 1;
    Header receipt(parts[1], "edgead.receipt");
    std::cout << "trigger " << trigger_id << " accepted " << receipt.get<bool>("accepted") << " reason '"
              << receipt.get<std::string>("reason") << "' verdict " << receipt.get<int>("verdict") << " error "
              << receipt.get<std::string>("error") << "\n";
}
