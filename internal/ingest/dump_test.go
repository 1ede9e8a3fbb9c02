package ingest
import ("testing";"os";"fmt";"encoding/json";"path/filepath";"github.com/tocsin-dr/tocsin/internal/event")
func TestDump(t *testing.T){
 for _,f:=range []string{"vercel-ai-sdk-7.0.173_otel-1.0.173_genai","langchain*","openai-agents-js-0.20.0_openinf*","openai-js*","claude*full","otel*_content"} {
  g,_:=filepath.Glob("../../../shared/datasets/telemetry/"+f+".json")
  h,_:=os.Open(g[0]); m:=NewMapper(Options{Content: ContentPolicy(os.Getenv("POL")),Hasher: event.NewHasher(nil)})
  fmt.Println("=====",g[0])
  err:=ReadCapture(h,func(r Request) error { es,rj,err:=m.Capture(r,Receipt{}); if err!=nil{return err}; for _,e:=range es{ b,_:=json.Marshal(e); fmt.Println(string(b[:min(len(b),2600)]))}; fmt.Println(rj); return nil})
  if err!=nil{t.Error(err)}
 }
}
