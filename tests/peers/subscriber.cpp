// A minimal subscriber: prints results as they come. Usage: subscriber ADDRESS STATION CAMERA COUNT
#include "header.hpp"
#include <iostream>
#include <zmq_addon.hpp>

int main(int, char **argv) {
    zmq::context_t context;
    zmq::socket_t socket(context, zmq::socket_type::sub);
    socket.set(zmq::sockopt::rcvtimeo, 10000); // ms without a result before giving up
    std::string topic = std::string("ead.v1.result.") + argv[2] + "." + argv[3];
    socket.set(zmq::sockopt::subscribe, topic);
    socket.connect(argv[1]);
    for (int left = std::stoi(argv[4]); left > 0;) {
        std::vector<zmq::message_t> parts;
        if (!zmq::recv_multipart(socket, std::back_inserter(parts)) || parts.size() < 2) return 1;
        if (parts[0].to_string() != topic) continue; // a filter is a prefix: "top" also lets "top2" through
        Header result(parts[1], "edgead.result");
        std::cout << "seq " << result.get<uint64_t>("seq") << " verdict " << result.get<int>("verdict")
                  << " error " << result.get<std::string>("error");
        if (result.has("score"))
            std::cout << " score " << result.get<double>("score") << " threshold " << result.get<double>("threshold");
        if (result.has("map")) {
            auto map = result.get<std::map<std::string, msgpack::object>>("map");
            std::cout << " map " << map["encoding"].as<std::string>() << " " << map["height"].as<int>() << " x "
                      << map["width"].as<int>() << ", " << parts.at(2).size() << " bytes";
        }
        std::cout << std::endl;
        left--;
    }
}
